"""How walks end by deadline, by deletion and by age, and what is left of them: nothing."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from momalisa import chunks, storage
from momalisa.database import transaction
from momalisa.errors import LeaseLostError
from momalisa.tables import Chunk, ChunkKind, IdempotencyKey, Walk, WalkStatus
from tests.conftest import clear_away

ORDER: dict[str, Any] = {"prompts": ["a giraffe", "a battleship"], "frames": 8}


def make(api: TestClient, **changes: Any) -> str:
    walk_id: str = api.post("/v1/walks", json={**ORDER, **changes}).json()["id"]
    storage.put(f"walks/{walk_id}/frames/0.000000000.png", b"a frame", "image/png")
    storage.put(f"walks/{walk_id}/walk.gif", b"a walk", "image/gif")
    return walk_id


def objects(walk_id: str) -> int:
    return len(list(storage._bucket().list_blobs(prefix=f"walks/{walk_id}/")))


def let_time_pass(**times: Any) -> None:
    with transaction() as session:
        session.execute(update(Walk).values(**times))


def test_a_removed_walk_is_gone_at_once_and_its_files_soon(api: TestClient) -> None:
    walk_id, other = make(api), make(api)
    with transaction() as session:
        claimed = chunks.claim(session, ChunkKind.RENDER, "here")
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
        chunks.heartbeat(session, claimed)

    clear_away()
    assert objects(walk_id) == 2  # its workers have a lease's time to learn of it
    let_time_pass(deleted_at=Walk.deleted_at - timedelta(hours=1))
    clear_away()
    assert (objects(walk_id), objects(other)) == (0, 2)
    with transaction() as session:
        assert session.scalars(select(func.count()).select_from(Walk)).one() == 1


def test_an_old_walk_expires_and_leaves_no_object(api: TestClient) -> None:
    walk_id = make(api)
    let_time_pass(status=WalkStatus.SUCCEEDED, finished_at=func.now() - timedelta(days=29))
    clear_away()
    assert api.get(f"/v1/walks/{walk_id}").json()["status"] == "succeeded"
    let_time_pass(finished_at=func.now() - timedelta(days=31))
    clear_away()
    gone = api.get(f"/v1/walks/{walk_id}")
    assert (gone.status_code, gone.json()["type"]) == (410, "/problems/walk-expired")
    assert "expired" in gone.json()["detail"]
    assert objects(walk_id) == 0
    assert api.get("/v1/walks").json()["walks"] == []
    with transaction() as session:
        assert session.scalars(select(Walk.purged_at)).one() is not None
    clear_away()


def test_a_walk_that_misses_its_deadline_fails(api: TestClient) -> None:
    late, patient = make(api, deadline_seconds=60), make(api)
    clear_away()
    assert api.get(f"/v1/walks/{late}").json()["status"] == "queued"
    let_time_pass(deadline_at=Walk.deadline_at - timedelta(minutes=2))
    clear_away()
    walk = api.get(f"/v1/walks/{late}").json()
    assert (walk["status"], walk["error"]["code"]) == ("failed", "deadline_exceeded")
    assert api.get(f"/v1/walks/{patient}").json()["status"] == "queued"
    with transaction() as session:
        claimed = chunks.claim(session, ChunkKind.RENDER, "here")
        assert claimed
        assert str(claimed.walk_id) == patient


def test_old_keys_are_forgotten(api: TestClient) -> None:
    api.post("/v1/walks", json=ORDER, headers={"Idempotency-Key": "old"})
    with transaction() as session:
        session.execute(update(IdempotencyKey).values(created_at=func.now() - timedelta(hours=25)))
    clear_away()
    with transaction() as session:
        assert session.scalars(select(IdempotencyKey)).all() == []
        assert session.scalars(select(func.count()).select_from(Chunk)).one() == 1
