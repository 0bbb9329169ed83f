"""HTTP semantics that all routes share."""

import re
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from api.app import app
from api.problems import catalog
from api.schemas import requests
from momalisa.db.models import Artifact
from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind
from momalisa.local.stack import LocalStack
from momalisa.settings import Settings
from tests.clients import accepted, submit
from tests.conftest import clear_caches

PAGES = ["/", "/gallery", "/exhibition", "/about", "/docs", "/walks/{id}", "/walks/{id}/embed"]
ANSWERS = ["/openapi.json", "/healthz", "/readyz", "/v1/walks", "/v1/walks/{id}", "/static/base.css"]
OTHERS = ["/oembed?url=http://testserver/walks/{id}", "/v1/walks/7", "/nowhere", "/favicon.ico"]


@pytest.mark.parametrize("path", [*PAGES, *ANSWERS, *OTHERS])
def test_head_has_the_headers_of_get_without_the_body(api: TestClient, path: str) -> None:
    path = path.format(id=submit(api))
    got = api.get(path, follow_redirects=False)
    head = api.head(path, follow_redirects=False)
    assert head.status_code == got.status_code
    assert head.content == b""
    own = {"x-request-id"}
    assert {name: value for name, value in head.headers.items() if name not in own} == {
        name: value for name, value in got.headers.items() if name not in own
    }


def test_head_of_events_opens_no_stream(api: TestClient) -> None:
    """The walk stays queued here, so a stream would never end."""
    path = f"/v1/walks/{submit(api)}/events"
    for known in ({}, {"Last-Event-ID": "0"}):
        head = api.head(path, headers=known)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith("text/event-stream")
    assert api.head(f"/v1/walks/{uuid4()}/events").status_code == 404


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/walks", "GET, HEAD, OPTIONS, POST"),
        ("/v1/walks/{id}/cancel", "OPTIONS, POST"),
        ("/v1/walks/{id}/events", "GET, HEAD, OPTIONS"),
        ("/walks", "GET, HEAD, OPTIONS, POST"),
        ("/walks/{id}", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/static/base.css", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_and_405_list_the_allowed_methods(api: TestClient, path: str, methods: str) -> None:
    path = path.format(id=uuid4())
    options, wrong = api.options(path), api.put(path)
    assert (options.status_code, options.content, options.headers["allow"]) == (204, b"", methods)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, methods)
    assert wrong.json()["type"] == "/problems/method-not-allowed"
    page = api.put(path, headers={"Accept": "text/html"})
    assert page.headers["allow"] == methods


def test_options_of_an_unknown_path_is_not_found(api: TestClient) -> None:
    assert api.options("/nowhere").status_code == 404


def test_each_response_has_an_id_that_its_problem_and_log_lines_repeat(
    api: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        answers = [
            api.post("/v1/walks", json={"prompts": ["a giraffe", "a battleship"]}),  # logged from a thread
            api.get("/v1/walks/7", headers={"X-Request-Id": "forged"}),
            api.post("/v1/walks", content=b" " * 70_000),  # refused before the app handles it
            api.get("/gallery"),
            api.get("/static/base.css"),
        ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)
    assert [answer.json()["request_id"] for answer in answers[1:3]] == ids[1:3]
    logged = [cast("dict[str, object]", record.msg) for record in caplog.records if isinstance(record.msg, dict)]
    assert {line["request_id"] for line in logged if line["event"] == "walk queued"} == {ids[0]}


def test_an_unexpected_error_is_logged_with_the_id_of_its_response(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.walks.queries.list_walks", None)
    answer = api.get("/v1/walks")
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_the_request_id_of_a_trusted_proxy_is_kept(services: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8")
    clear_caches()

    def answered(peer: str, *given: str) -> str:
        client = TestClient(app, client=(peer, 5000))
        found: str = client.get("/healthz", headers=[("X-Request-Id", one) for one in given]).headers[
            "x-request-id"
        ]
        return found

    assert answered("10.1.2.3", "a1-B2") == "a1-B2"
    assert answered("11.1.2.3", "a1-B2") != "a1-B2"
    assert answered("10.1.2.3", "a", "b") not in {"a", "b", "a, b"}
    assert answered("10.1.2.3", 'a"b') != 'a"b'


WITH_BODY = [
    (method.upper(), path)
    for path, operations in app.openapi()["paths"].items()
    for method, operation in operations.items()
    if "requestBody" in operation
]
ORDER = b'{"prompts": ["a giraffe", "a battleship"]}'


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "json",
        "text/plain",
        "text/json",
        "multipart/form-data; boundary=x",
        'application/json; charset="latin-1"',
    ],
)
def test_a_body_without_a_json_media_type_is_refused(
    api: TestClient, method: str, path: str, sent: str | None
) -> None:
    headers = {} if sent is None else {"Content-Type": sent}
    answer = api.request(method, path.format(walk_id=uuid4()), content=ORDER, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")
    assert "application/json" in answer.json()["detail"]
    assert answer.headers[f"accept-{method.lower()}"] == "application/json, application/*+json"


@pytest.mark.parametrize(
    "sent",
    [
        "application/json",
        "Application/JSON; Charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/problem+json",
    ],
)
def test_a_body_with_a_json_media_type_is_accepted(api: TestClient, sent: str) -> None:
    assert api.post("/v1/walks", content=ORDER, headers={"Content-Type": sent}).status_code == 202


def test_a_form_route_accepts_forms_only(api: TestClient) -> None:
    form = {"prompts": ["a giraffe", "a battleship"]}
    assert api.post("/walks", data=form, follow_redirects=False).status_code == 303
    for sent in ("text/plain", "application/json", "multipart/form-data; boundary=x"):
        answer = api.post("/walks", content="prompts=a&prompts=b", headers={"Content-Type": sent})
        assert (answer.status_code, answer.headers["accept-post"]) == (415, "application/x-www-form-urlencoded")


def test_a_request_without_a_body_needs_no_content_type(api: TestClient) -> None:
    assert api.post("/v1/walks").status_code == 422


def test_every_type_of_problem_resolves(api: TestClient) -> None:
    kinds = {catalog.slug(kind) for kind in catalog.CATALOG.values()}
    kinds |= {"not-found", "method-not-allowed"}  # as the framework answers
    kinds |= {
        example["value"]["type"].removeprefix("/problems/")
        for operations in app.openapi()["paths"].values()
        for operation in operations.values()
        for answer in operation["responses"].values()
        for example in answer.get("content", {}).get("application/problem+json", {}).get("examples", {}).values()
    }
    for kind in sorted(kinds):
        described = api.get(f"/problems/{kind}").json()
        assert described["type"] == f"/problems/{kind}"
        assert described["meaning"]
        assert described["advice"]
        page = api.get(f"/problems/{kind}", headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert "What to do" in page.text
    missing = api.get("/problems/no-such")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")


def test_the_type_of_a_problem_leads_to_its_description(api: TestClient) -> None:
    problem = api.get(f"/v1/walks/{uuid4()}").json()
    described = api.get(problem["type"]).json()
    assert (described["title"], described["status"]) == (problem["title"], 404)
    assert described["meaning"] == "There is no walk with this id."
    assert described["advice"].startswith("Check the id.")


FIELDS = sorted(requests.WalkRequest.model_fields.keys() - {"prompts"})


@pytest.mark.parametrize("field", FIELDS)
def test_null_means_omitted(api: TestClient, field: str) -> None:
    walk = {"prompts": ["a giraffe", "a battleship"], "seed": 7} | {field: None}
    answer = api.post("/v1/walks", json=walk)
    assert answer.status_code == 202, answer.text
    same = {name: value for name, value in walk.items() if value is not None}
    usual = api.post("/v1/walks", json=same).json()
    described = answer.json()
    if field == "seed":
        described["settings"]["seed"] = usual["settings"]["seed"]  # random
    assert [described[name] for name in ("settings", "frames_total", "public")] == [
        usual[name] for name in ("settings", "frames_total", "public")
    ]


def test_null_with_from_walk_means_the_sources_value_or_the_default(api: TestClient) -> None:
    prompts = ["a giraffe", "a battleship"]
    source = accepted(api, {"prompts": prompts, "frames": 6, "fps": 20, "public": False, "seed_to": 9, "steps": 3})
    left_out = {name: None for name in FIELDS if name not in requests.NULL_MEANS_DEFAULT}
    same = api.post("/v1/walks", json={**left_out, "prompts": None, "from_walk": source["id"]}).json()
    assert (same["prompts"], same["settings"]) == (source["prompts"], source["settings"])
    assert (same["frames_total"], same["public"]) == (6, False)
    usual = api.post("/v1/walks", json={"from_walk": source["id"], "seed_to": None, "steps": None}).json()
    assert (usual["settings"]["seed_to"], usual["settings"]["steps"]) == (None, 8)


@pytest.mark.parametrize(("frames", "taken"), [(24.0, 24), (24.5, None), ("24", None), (True, None), ([24], None)])
def test_a_whole_number_may_have_a_decimal_point_but_no_quotes(
    api: TestClient, frames: object, taken: int | None
) -> None:
    answer = api.post("/v1/walks", json={"prompts": ["a giraffe", "a battleship"], "frames": frames})
    if taken is None:
        assert (answer.status_code, answer.json()["errors"][0]["message"]) == (422, "must be a whole number")
    else:
        assert (answer.status_code, answer.json()["frames_total"]) == (202, taken)


def test_an_unknown_field_is_refused_even_if_it_is_null(api: TestClient) -> None:
    answer = api.post("/v1/walks", json={"prompts": ["a giraffe", "a battleship"], "colour": None})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "colour")


@pytest.mark.parametrize(
    "path", ["/v1/walks", "/v1/walks?limit=1", "/openapi.json", "/about", "/gallery", "/v1/walks/{id}"]
)
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_matching_entity_tag_gets_304(api: TestClient, path: str, encoding: str) -> None:
    path = path.format(id=submit(api))
    first = api.get(path, headers={"Accept-Encoding": encoding})
    assert first.headers["etag"].startswith('W/"')
    for known in (first.headers["etag"], f'"x", {first.headers["etag"]}', first.headers["etag"].removeprefix("W/")):
        again = api.get(path, headers={"If-None-Match": known, "Accept-Encoding": encoding})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert again.headers.get("cache-control") == first.headers.get("cache-control")
    assert api.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


def test_a_changed_list_is_sent(api: TestClient) -> None:
    tag = api.get("/v1/walks").headers["etag"]
    submit(api)
    answer = api.get("/v1/walks", headers={"If-None-Match": tag})
    assert (answer.status_code, len(answer.json()["walks"])) == (200, 1)


@pytest.mark.parametrize("path", ["/v1/walks/{id}", "/openapi.json", "/about"])
def test_texts_are_compressed_if_the_client_accepts_it(api: TestClient, path: str) -> None:
    path = path.format(id=submit(api))
    small, plain = (api.get(path, headers={"Accept-Encoding": encoding}) for encoding in ("gzip", "identity"))
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"])
    assert small.text == plain.text
    assert "content-encoding" not in plain.headers
    assert {"Accept-Encoding"} <= set(small.headers["vary"].split(", "))
    assert small.headers["vary"] == plain.headers["vary"]


def test_events_and_secrets_are_never_compressed(api: TestClient) -> None:
    submit(api)
    assert "content-encoding" not in api.get("/v1/webhook-secret").headers
    assert "content-encoding" not in api.head(f"/v1/walks/{submit(api)}/events").headers


def test_responses_vary_with_the_caller_even_if_compressed(api: TestClient) -> None:
    for _ in range(3):
        submit(api)
    assert api.get("/v1/walks").headers["vary"] == "Accept-Encoding, Authorization, Cookie"


def test_a_file_that_does_not_exist_yet_differs_from_an_unknown_kind(api: TestClient) -> None:
    walk = submit(api)
    early = api.get(f"/v1/walks/{walk}/artifacts/gif")
    assert (early.status_code, early.json()["type"]) == (404, "/problems/artifact-not-found")
    assert "the walk is queued" in early.json()["detail"]
    unknown = api.get(f"/v1/walks/{walk}/artifacts/exe")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "kind")
    with transaction() as session:
        made = {"object": f"walks/{walk}/x/walk.gif", "bytes": 1, "crc32c": "AAAAAA==", "width": 8, "height": 8}
        session.add(Artifact(walk_id=UUID(walk), kind=ArtifactKind.GIF, **made))
    there = api.get(f"/v1/walks/{walk}/artifacts/gif", follow_redirects=False)
    assert (there.status_code, there.headers["location"]) == (
        307,
        api.get(f"/v1/walks/{walk}").json()["artifacts"]["gif"]["url"],
    )


def test_security_txt_exists_if_a_contact_is_set(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.get("/.well-known/security.txt").status_code == 404
    monkeypatch.setenv("SECURITY_CONTACT", "mailto:security@momalisa.example")
    monkeypatch.setenv("PUBLIC_URL", "https://momalisa.example")
    clear_caches()
    answer = api.get("/.well-known/security.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    fields = dict(line.split(": ", 1) for line in answer.text.splitlines())
    assert fields["Contact"] == "mailto:security@momalisa.example"
    assert fields["Canonical"] == "https://momalisa.example/.well-known/security.txt"
    left = datetime.fromisoformat(fields["Expires"]) - datetime.now(UTC)
    assert timedelta(days=178) < left <= timedelta(days=180)
    monkeypatch.setenv("SECURITY_CONTACT", "security@momalisa.example")
    with pytest.raises(ValidationError, match="security_contact"):
        Settings()
