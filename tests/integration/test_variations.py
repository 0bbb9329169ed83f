"""Several walks of one request, which differ in their seeds."""

from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from tests.integration.conftest import Limit, assert_refused

ORDER: dict[str, Any] = {"prompts": ["a giraffe", "a battleship"], "frames": 4, "steps": 2, "variations": 3}


def ids(answer: dict[str, Any]) -> list[str]:
    return [answer["id"], *(other["id"] for other in answer["variations"])]


def test_one_request_makes_several_walks_that_differ_in_their_seeds(api: TestClient) -> None:
    answer = api.post("/v1/walks", json=ORDER)
    made = answer.json()
    walks = [made, *made["variations"]]
    assert (answer.status_code, len(set(ids(made)))) == (202, 3)
    assert len({walk["settings"]["seed"] for walk in walks}) == 3
    assert [walk["settings"] | {"seed": 0} for walk in walks] == [made["settings"] | {"seed": 0}] * 3
    assert {walk["id"] for walk in api.get("/v1/walks").json()["walks"]} == set(ids(made))
    assert api.get(made["variations"][0]["urls"]["self"]).json()["frames"] == made["variations"][0]["frames"]
    assert api.post("/v1/walks", json={**ORDER, "variations": None}).json()["variations"] == []


def test_a_repeated_request_answers_with_the_same_walks(api: TestClient) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first, second = (api.post("/v1/walks", json=ORDER, headers=key).json() for _ in range(2))
    assert ids(first) == ids(second)
    assert len(api.get("/v1/walks").json()["walks"]) == 3
    assert api.delete(f"/v1/walks/{ids(first)[1]}").status_code == 204
    assert ids(api.post("/v1/walks", json=ORDER, headers=key).json()) == [ids(first)[0], ids(first)[2]]


def test_variations_of_a_walk_keep_all_but_its_seeds(api: TestClient) -> None:
    source = api.post("/v1/walks", json={**ORDER, "variations": None, "seeds": [1, 2], "fps": 7}).json()
    made = api.post("/v1/walks", json={"from_walk": source["id"], "variations": 2}).json()
    for walk in (made, *made["variations"]):
        assert walk["settings"] == source["settings"] | {"seed": walk["settings"]["seed"], "seeds": None}


def test_variations_count_as_many_walks_in_all_limits(api: TestClient, limit: Limit) -> None:
    limit(max_waiting_walks=4)
    assert api.post("/v1/walks", json=ORDER).status_code == 202
    assert_refused(api.post("/v1/walks", json=ORDER), "3 of your walks are waiting for workers; with 3 more")
    limit(max_waiting_walks=100, submissions_per_minute=5)
    assert api.post("/v1/walks", json=ORDER).status_code == 202
    assert_refused(api.post("/v1/walks", json=ORDER), "at most 5")
    limit(submissions_per_minute=100, pixel_steps_per_day=3 * 4 * 2 * 128 * 128 - 1)
    assert api.post("/v1/walks", json=ORDER).json()["errors"][0]["field"] == "frames"
    assert len(api.get("/v1/walks").json()["walks"]) == 6


@pytest.mark.parametrize("setting", ["max_waiting_walks", "submissions_per_minute"])
def test_variations_that_a_limit_never_allows_are_refused_for_good(
    api: TestClient, limit: Any, setting: str
) -> None:
    limit(**{setting: 2})
    refused = api.post("/v1/walks", json=ORDER)
    assert (refused.status_code, refused.json()["errors"]) == (
        422,
        [{"field": "variations", "message": "at most 2 here, got 3"}],
    )
    assert api.post("/v1/walks", json={**ORDER, "variations": 2}).status_code == 202


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"variations": 1}, "variations", "at least 2, got 1"),
        ({"variations": 11}, "variations", "at most 10, got 11"),
        ({"seed": 7}, "seed", "must be left out with variations, whose seeds are drawn"),
        ({"seeds": [7, 8]}, "seeds", "must be left out with variations"),
        (
            {"pinned": {"batches": [{"size": 4, "positions": [0, 0.3, 0.6, 1]}]}},
            "pinned",
            "must be left out with variations",
        ),
    ],
)
def test_what_cannot_be_varied_is_refused(api: TestClient, changes: dict[str, Any], field: str, words: str) -> None:
    refused = api.post("/v1/walks", json={**ORDER, **changes})
    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert error["field"] == field
    assert words in error["message"]
