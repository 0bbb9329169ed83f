"""The same key makes the same walk."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from momalisa import queue
from momalisa.database import transaction
from momalisa.tables import ChunkKind, IdempotencyKey, Walk, WalkStatus

ORDER: dict[str, Any] = {"prompts": ["a giraffe", "a battleship"], "frames": 8}


def submit(api: TestClient, key: str | None, **changes: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post("/v1/walks", json={**ORDER, **changes}, headers=headers)


def walks() -> int:
    with transaction() as session:
        return session.execute(select(func.count()).select_from(Walk)).scalar_one()


def test_the_same_request_again_answers_the_same_walk(api: TestClient) -> None:
    first, second = submit(api, "k-1"), submit(api, "k-1")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    assert first.json()["settings"]["seed"] == second.json()["settings"]["seed"]  # drawn once
    assert first.headers["location"] == second.headers["location"]
    assert walks() == 1
    assert queue.waiting(ChunkKind.RENDER) == 1


def test_fifty_at_once_make_one_walk(api: TestClient) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: submit(api, "k-50"), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert walks() == 1


def test_a_walk_that_is_done_is_answered_too(api: TestClient) -> None:
    walk = submit(api, "k-2").json()
    with transaction() as session:
        session.execute(update(Walk).values(status=WalkStatus.SUCCEEDED))
    again = submit(api, "k-2").json()
    assert (again["id"], again["status"]) == (walk["id"], "succeeded")


@pytest.mark.parametrize("changes", [{"frames": 9}, {"seed": 1}, {"prompts": ["a giraffe", "a boat"]}])
def test_another_request_under_the_same_key_is_refused(api: TestClient, changes: dict[str, Any]) -> None:
    submit(api, "k-3")
    answer = submit(api, "k-3", **changes)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert walks() == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "t\tab"])
def test_a_malformed_key_is_refused(api: TestClient, key: str) -> None:
    answer = submit(api, key)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/idempotency-key-malformed")
    assert "1 to 255 visible ASCII characters" in answer.json()["detail"]
    assert walks() == 0


def test_a_key_is_free_again_after_a_day(api: TestClient) -> None:
    first = submit(api, "k-4").json()
    with transaction() as session:
        session.execute(update(IdempotencyKey).values(created_at=func.now() - timedelta(hours=25)))
    assert submit(api, "k-4", frames=9).json()["id"] != first["id"]


def test_without_a_key_every_request_makes_a_walk(api: TestClient) -> None:
    assert submit(api, None).json()["id"] != submit(api, None).json()["id"]


def test_a_removed_walk_frees_its_key(api: TestClient) -> None:
    first = submit(api, "k-5").json()
    assert api.delete(f"/v1/walks/{first['id']}").status_code == 204
    again = submit(api, "k-5")
    assert (again.status_code, again.json()["id"] != first["id"]) == (202, True)
