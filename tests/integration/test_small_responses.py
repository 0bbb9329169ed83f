"""A bad request gets a small response, whatever it contains."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api.app import app
from api.middleware import body_limit
from api.problems import fields
from api.schemas import requests

MAX_BYTES = 8 * 1024
MAX_PAGE_BYTES = 64 * 1024

WORDS = st.text(min_size=1, max_size=12) | st.sampled_from(['"', "\\", "\0", "\u202e", "🦒", "\ud800", "<"])
LONG = st.builds(lambda word, times: word * times, WORDS, st.integers(1, 5000))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | LONG
VALUES = st.recursive(
    SCALARS | st.builds(lambda value, times: [value] * times, SCALARS, st.integers(1, 9000)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted(requests.WalkRequest.model_fields))
MANY = st.builds(lambda word, times: {f"{word}{i}": i for i in range(times)}, WORDS, st.integers(1, 4000))
KNOWN = st.dictionaries(FIELDS | LONG, VALUES)
BODIES = st.builds(lambda known, many: {**known, **many}, KNOWN, st.just({}) | MANY)

anything_goes = settings(
    deadline=None,
    max_examples=80,
    phases=[Phase.explicit, Phase.generate],  # shrinking long inputs takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def assert_small(answer: Any) -> None:
    assert answer.status_code < 500, answer.text[:500]
    if answer.status_code >= 400:
        page = answer.headers["content-type"].startswith("text/html")
        assert len(answer.content) <= (MAX_PAGE_BYTES if page else MAX_BYTES), answer.text[:500]


@anything_goes
@given(body=BODIES)
def test_whatever_the_body_the_response_is_small(api: TestClient, body: dict[str, Any]) -> None:
    sent = json.dumps(body).encode()[: body_limit.MAX_BYTES]
    assert_small(api.post("/v1/walks", content=sent, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("page", [True, False], ids=["page", "program"])
@pytest.mark.parametrize("word", ["a", "&", '"', "\\", "<", "🦒", "\u202e", "0"])
def test_whatever_the_url_the_response_is_small(api: TestClient, word: str, page: bool) -> None:
    words = 2000 * word
    headers = {"Accept": "text/html"} if page else {}
    for path in ("/v1/walks", "/gallery", "/"):
        for name in ("limit", "cursor", "status", "mine", "q", "from", "to"):
            assert_small(api.get(path, params={name: words}, headers=headers))
    for path in ("/v1/walks/{}", "/walks/{}", "/{}", "/v1/walks/{}/frames/{}"):
        assert_small(api.get(path.replace("{}", quote(words)), headers=headers))


@anything_goes
@given(fields=st.lists(st.tuples(FIELDS | WORDS, LONG), max_size=120), page=st.booleans())
def test_whatever_the_form_the_response_is_small(
    api: TestClient, fields: list[tuple[str, str]], page: bool
) -> None:
    sent: dict[str, list[str]] = {}
    for name, value in fields:
        readable = name.encode(errors="replace").decode(), value.encode(errors="replace").decode()[:1000]
        sent.setdefault(readable[0], []).append(readable[1])
    assert_small(api.post("/walks", data=sent, headers={"Accept": "text/html"} if page else {}))


def test_a_form_with_too_many_fields_is_refused(api: TestClient) -> None:
    form = {"content": "a=1&" * 101, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    answer = api.post("/walks", **form)  # type: ignore[arg-type]
    assert (answer.status_code, "more than 100 fields" in answer.json()["detail"]) == (422, True)


def test_at_most_twenty_errors_are_listed(api: TestClient) -> None:
    answer = api.post("/v1/walks", json={"prompts": ["a", "b"], **{f"field{number}": 1 for number in range(50)}})
    assert len(answer.json()["errors"]) == 20
    assert answer.json()["detail"].endswith("; and 30 more.")


def test_input_is_repeated_in_part_only(api: TestClient) -> None:
    (error,) = api.post("/v1/walks", json={"prompts": ["a", "b"], "loop": "x" * 60_000}).json()["errors"]
    assert error["message"].endswith(", got '" + "x" * 79 + "…'")
    (error,) = api.post("/v1/walks", json={"prompts": ["a", "b"], "y" * 60_000: 1}).json()["errors"]
    assert error["field"] == "y" * 79 + "…"


MUCH: list[dict[str, Any]] = [
    {"weights": [0] * 31_000},
    {"prompts": [0] * 31_000},
    dict.fromkeys(map(str, range(7200))),
]


@pytest.mark.parametrize("body", MUCH, ids=["weights", "prompts", "fields"])
def test_too_many_fields_are_one_error(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        requests.WalkRequest.model_validate({"prompts": ["a", "b"], **body})
    assert refused.value.error_count() == 1


def test_every_list_in_requests_is_bounded() -> None:
    schemas_ = app.openapi()["components"]["schemas"]
    lists = [
        (name, kind)
        for name, field in schemas_["WalkRequest"]["properties"].items()
        for kind in [field, *field.get("anyOf", [])]
        if kind.get("type") == "array"
    ]
    assert {name for name, _ in lists} >= {"prompts", "weights"}
    assert all(kind["maxItems"] <= fields.MAX_ERRORS for _, kind in lists)
