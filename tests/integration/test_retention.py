"""Deadlines, deletion and expiry of walks, which leave nothing behind."""

from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from google.api_core.exceptions import Forbidden
from sqlalchemy import case, func, select, update

from api.app import app
from momalisa.db.models import Chunk, Frame, IdempotencyKey, Tombstone, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.errors import LeaseLostError
from momalisa.maintenance import reconciler, retention
from momalisa.queue import leases
from momalisa.storage import bucket
from tests.conftest import run_retention

ORDER: dict[str, Any] = {"prompts": ["a giraffe", "a battleship"], "frames": 8}


def make(api: TestClient, **changes: Any) -> str:
    walk_id: str = api.post("/v1/walks", json={**ORDER, **changes}).json()["id"]
    bucket.upload(f"walks/{walk_id}/frames/0.000000000.png", b"a frame", "image/png")
    bucket.upload(f"walks/{walk_id}/walk.gif", b"a walk", "image/gif")
    return walk_id


def objects(walk_id: str) -> int:
    return len(list(bucket._bucket().list_blobs(prefix=f"walks/{walk_id}/")))


def rows() -> list[int]:
    """Return how many walks, chunks and frames there are."""
    with transaction() as session:
        return [session.scalars(select(func.count()).select_from(table)).one() for table in (Walk, Chunk, Frame)]


def let_time_pass(**times: Any) -> None:
    with transaction() as session:
        session.execute(update(Walk).values(**times))


def test_a_removed_walk_is_gone_at_once_and_its_files_soon(api: TestClient) -> None:
    walk_id, other = make(api), make(api)
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
    assert claimed
    assert str(claimed.walk_id) == walk_id
    assert api.delete(f"/v1/walks/{walk_id}").status_code == 204
    for answer in (
        api.get(f"/v1/walks/{walk_id}"),
        api.get(f"/v1/walks/{walk_id}/events"),
        api.get(f"/v1/walks/{walk_id}/frames/0"),
        api.post(f"/v1/walks/{walk_id}/cancel"),
        api.delete(f"/v1/walks/{walk_id}"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/walk-not-found")
    assert [walk["id"] for walk in api.get("/v1/walks").json()["walks"]] == [other]
    with pytest.raises(LeaseLostError), transaction() as session:
        leases.heartbeat(session, claimed)

    run_retention()
    assert objects(walk_id) == 2  # its workers have LEASE_SECONDS to notice it
    let_time_pass(deleted_at=Walk.deleted_at - timedelta(hours=1))
    run_retention()
    assert (objects(walk_id), objects(other)) == (0, 2)
    with transaction() as session:
        assert session.scalars(select(func.count()).select_from(Walk)).one() == 1


def test_an_old_walk_expires_and_leaves_no_object(api: TestClient) -> None:
    walk_id = make(api)
    let_time_pass(status=WalkStatus.SUCCEEDED, finished_at=func.now() - timedelta(days=29))
    run_retention()
    assert api.get(f"/v1/walks/{walk_id}").json()["status"] == "succeeded"
    let_time_pass(finished_at=func.now() - timedelta(days=31))
    run_retention()
    gone = api.get(f"/v1/walks/{walk_id}")
    assert (gone.status_code, gone.json()["type"]) == (410, "/problems/walk-expired")
    assert "expired" in gone.json()["detail"]
    assert objects(walk_id) == 0
    assert api.get("/v1/walks").json()["walks"] == []


def test_an_expired_walk_leaves_no_row_and_answers_410_for_a_year(api: TestClient) -> None:
    private, other = make(api, public=False), make(api)
    let_time_pass(status=WalkStatus.SUCCEEDED, finished_at=func.now() - timedelta(days=31))
    for _ in range(2):
        run_retention()
        assert rows() == [0, 0, 0]
        for owner in (api, TestClient(app)):
            answers = [
                owner.get(f"/v1/walks/{walk}{path}") for walk in (private, other) for path in ("", "/events")
            ]
            assert [answer.status_code for answer in answers] == [410 if owner is api else 404] * 2 + [410] * 2
            patient = [owner.get(f"/v1/walks/{walk}", headers={"Prefer": "wait=1"}) for walk in (private, other)]
            assert [answer.status_code for answer in patient] == [410 if owner is api else 404, 410]
    assert "expired" in api.post("/v1/walks", json={"from_walk": other}).text
    with transaction() as session:
        session.execute(update(Tombstone).values(expired_at=func.now() - timedelta(days=366)))
    run_retention()
    assert api.get(f"/v1/walks/{other}").status_code == 404


def test_walks_that_older_code_expired_are_removed_too(api: TestClient) -> None:
    walk = make(api)
    let_time_pass(status=WalkStatus.EXPIRED, purged_at=func.now() - timedelta(days=300))
    run_retention()
    assert rows() == [0, 0, 0]
    with transaction() as session:
        long_ago = Tombstone.expired_at < func.now() - timedelta(days=299)
        assert session.scalars(select(long_ago)).one()
    assert api.get(f"/v1/walks/{walk}").status_code == 410


def test_an_object_that_cannot_be_removed_delays_no_other_walk(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = [make(api) for _ in range(6)]
    let_time_pass(status=WalkStatus.EXPIRED)
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    with monkeypatch.context() as patch:
        delete_all, held = bucket.delete_all, bucket.folder_name(UUID(walks[0]))

        def delete_unless_held(prefix: str, **named: Any) -> None:
            if prefix == held:
                # the emulator does not support holds
                raise Forbidden("The object is under a hold.")  # type: ignore[no-untyped-call]
            delete_all(prefix, **named)

        patch.setattr(bucket, "delete_all", delete_unless_held)
        let_time_pass(purge_after=case((Walk.id == walks[0], func.now() - timedelta(hours=1))))
        rounds = [retention.remove() for _ in range(3)]
        assert rounds == [(2, True), (2, True), (1, True)]
        assert retention.remove() == (0, False)  # it does not retry the same walk immediately
        assert [objects(walk) for walk in walks] == [2, 0, 0, 0, 0, 0]
        assert api.get(f"/v1/walks/{walks[0]}").status_code == 410
        let_time_pass(purge_after=func.now())
        with pytest.raises(Forbidden):  # nothing was removed, and the reconciler reports that
            retention.remove()
    assert retention.remove() == (1, False)  # once the bucket is back, it is retried at once
    assert objects(walks[0]) == 0


def test_a_round_of_removals_is_limited_and_the_next_one_continues(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = [make(api) for _ in range(3)]
    let_time_pass(status=WalkStatus.EXPIRED)
    monkeypatch.setattr(retention, "THREADS", 1)
    monkeypatch.setattr(retention, "ROUND_SECONDS", 6)
    monkeypatch.setattr(retention, "monotonic", count().__next__)  # a second between two checks
    assert retention.remove() == (1, True)
    assert sorted(objects(walk) for walk in walks) == [0, 1, 2]
    assert retention.remove() == (2, False)
    assert rows() == [0, 0, 0]


def test_a_backlog_is_removed_without_a_pause(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    for _ in range(4):
        make(api, deadline_seconds=60)
    let_time_pass(deadline_at=func.now() - timedelta(minutes=1))
    assert [reconciler.end_overdue() for _ in range(3)] == [True, True, False]
    let_time_pass(finished_at=func.now() - timedelta(days=31))
    assert [reconciler.expire() for _ in range(3)] == [True, True, False]
    assert [reconciler.remove_walks() for _ in range(3)] == [True, True, False]
    assert rows() == [0, 0, 0]


def test_a_walk_that_misses_its_deadline_fails(api: TestClient) -> None:
    late, patient = make(api, deadline_seconds=60), make(api)
    run_retention()
    assert api.get(f"/v1/walks/{late}").json()["status"] == "queued"
    let_time_pass(deadline_at=Walk.deadline_at - timedelta(minutes=2))
    run_retention()
    walk = api.get(f"/v1/walks/{late}").json()
    assert (walk["status"], walk["error"]["code"]) == ("failed", "deadline_exceeded")
    assert api.get(f"/v1/walks/{patient}").json()["status"] == "queued"
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
        assert claimed
        assert str(claimed.walk_id) == patient


def test_expired_idempotency_keys_are_deleted(api: TestClient) -> None:
    api.post("/v1/walks", json=ORDER, headers={"Idempotency-Key": "old"})
    with transaction() as session:
        session.execute(update(IdempotencyKey).values(created_at=func.now() - timedelta(hours=25)))
    run_retention()
    with transaction() as session:
        assert session.scalars(select(IdempotencyKey)).all() == []
        assert session.scalars(select(func.count()).select_from(Chunk)).one() == 1
