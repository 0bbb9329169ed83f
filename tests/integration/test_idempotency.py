"""Requests with the same idempotency key create one walk."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from api.access import COOKIE
from momalisa.db.models import IdempotencyKey, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.queue import celery_app
from tests.clients import new_client, new_key

ORDER: dict[str, Any] = {"prompts": ["a giraffe", "a battleship"], "frames": 8}


def submit(api: TestClient, key: str | None, **changes: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post("/v1/walks", json={**ORDER, **changes}, headers=headers)


def walks() -> int:
    with transaction() as session:
        return session.execute(select(func.count()).select_from(Walk)).scalar_one()


def test_a_repeated_request_returns_the_same_walk(api: TestClient) -> None:
    first, second = submit(api, "k-1"), submit(api, "k-1")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    assert first.json()["settings"]["seed"] == second.json()["settings"]["seed"]  # generated once
    assert first.headers["location"] == second.headers["location"]
    assert walks() == 1
    assert celery_app.count_messages(ChunkKind.RENDER) == 1


def test_someone_elses_idempotency_key_gives_no_access_to_their_walks(api: TestClient) -> None:
    first, second = new_client(api), new_client(api)
    public = submit(first, "k-6").json()
    again = submit(second, "k-6")  # from the same address, as behind one NAT
    assert (again.status_code, again.json()["id"], again.json()["mine"]) == (202, public["id"], False)
    assert "set-cookie" not in again.headers
    assert second.post(f"/v1/walks/{public['id']}/cancel").status_code == 403
    assert [walk["id"] for walk in second.get("/v1/walks?mine=true").json()["walks"]] == []


def test_a_private_walk_is_never_returned_to_an_equal_request_of_another_visitor(api: TestClient) -> None:
    first, second = new_client(api), new_client(api)
    walks_ = [submit(client, "k-7", public=False).json()["id"] for client in (first, second, first, second)]
    assert walks_[:2] == walks_[2:]  # each has its own walk, by its new cookie
    assert walks_[0] != walks_[1]
    assert second.get(f"/v1/walks/{walks_[0]}").status_code == 404


@pytest.mark.parametrize("public", [True, False])
def test_the_identity_of_a_repeated_request_is_kept(api: TestClient, public: bool) -> None:
    visitor = new_client(api)
    visitor.post("/v1/walks", json=ORDER)
    cookie = visitor.cookies[COOKIE]
    stranger = submit(new_client(api), "k-8", public=public).json()["id"]
    key = new_key()
    for client in (visitor, new_client(api, key)):
        mine, again = submit(client, "k-8", public=public), submit(client, "k-8", public=public)
        assert mine.json()["id"] == again.json()["id"] != stranger
        assert (again.json()["mine"], again.headers.get("set-cookie")) == (True, None)
    assert visitor.cookies[COOKIE] == cookie


def test_a_walk_that_became_private_is_not_returned_for_its_key(api: TestClient) -> None:
    submit(new_client(api), "k-9")
    with transaction() as session:
        session.execute(update(Walk).values(public=False))
    answer = submit(new_client(api), "k-9")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")


def test_an_omitted_field_differs_from_one_sent_with_its_default(api: TestClient) -> None:
    source = submit(api, None, frames=4).json()["id"]
    left_out = {"from_walk": source}
    sent = {"from_walk": source, "frames": 24, "fps": 12, "hold": 0}

    def repeated(body: dict[str, Any]) -> Any:
        return api.post("/v1/walks", json=body, headers={"Idempotency-Key": "k-10"})

    assert repeated(left_out).json()["frames_total"] == 4
    assert repeated(sent).status_code == 422
    assert repeated(left_out).status_code == 202


def test_white_space_and_order_do_not_matter(api: TestClient) -> None:
    headers = {"Idempotency-Key": "k-11", "Content-Type": "application/json"}
    bodies = ['{"frames":2,"prompts":["a", "b"]}', ' {"prompts": ["a", "b"],\n"frames": 2} ']
    ids = {api.post("/v1/walks", content=body, headers=headers).json()["id"] for body in bodies}
    assert len(ids) == 1


def test_fifty_concurrent_requests_create_one_walk(api: TestClient) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: submit(api, "k-50"), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert walks() == 1


def test_a_finished_walk_is_returned_too(api: TestClient) -> None:
    walk = submit(api, "k-2").json()
    with transaction() as session:
        session.execute(update(Walk).values(status=WalkStatus.SUCCEEDED))
    again = submit(api, "k-2").json()
    assert (again["id"], again["status"]) == (walk["id"], "succeeded")


@pytest.mark.parametrize("changes", [{"frames": 9}, {"seed": 1}, {"prompts": ["a giraffe", "a boat"]}])
def test_another_request_with_the_same_key_is_refused(api: TestClient, changes: dict[str, Any]) -> None:
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


def test_a_key_can_be_used_again_after_a_day(api: TestClient) -> None:
    first = submit(api, "k-4").json()
    with transaction() as session:
        session.execute(update(IdempotencyKey).values(created_at=func.now() - timedelta(hours=25)))
    assert submit(api, "k-4", frames=9).json()["id"] != first["id"]


def test_without_a_key_every_request_creates_a_walk(api: TestClient) -> None:
    assert submit(api, None).json()["id"] != submit(api, None).json()["id"]


def test_deleting_a_walk_frees_its_key(api: TestClient) -> None:
    first = submit(api, "k-5").json()
    assert api.delete(f"/v1/walks/{first['id']}").status_code == 204
    again = submit(api, "k-5")
    assert (again.status_code, again.json()["id"] != first["id"]) == (202, True)
