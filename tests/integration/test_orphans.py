"""Orphaned objects are deleted from the bucket, and nothing else."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.maintenance import orphans, reconciler
from momalisa.maintenance.orphans import OrphanScan
from momalisa.storage import bucket
from momalisa.walks import relocation
from tests.conftest import empty
from tests.finished_walks import draw
from tests.integration.conftest import Finished
from tests.walk_files import SMALL, checksums, look, urls
from worker import runner
from worker.lease import Lease
from worker.process.worker import Worker
from worker.recording import Record


@pytest.fixture(autouse=True)
def _clean(api: TestClient) -> None:
    """Remove what other tests left in the bucket."""
    bucket.delete_all("walks/")


def let_time_pass(**times: object) -> None:
    with transaction() as session:
        session.execute(update(Walk).values(times))


def put(walk_id: object, name: str = "secret/frames/0.300000000.png") -> str:
    return bucket.upload(f"walks/{walk_id}/{name}", b"a picture", "image/png").name


def swept(walk: OrphanScan | None = None) -> set[str]:
    """Return the objects that are left after a round."""
    (walk or OrphanScan(age=timedelta())).delete_next_page()
    return set(bucket.list_names("walks/"))


def test_orphans_are_deleted_and_all_else_stays(api: TestClient, finished: Finished) -> None:
    walk = finished()
    sums, kept = checksums(walk), swept()
    assert len(kept) == len(urls(walk))
    strays = {put(uuid4()), put(walk["id"]), put(walk["id"], "walk.gif")}
    stranger = put("not-an-id")
    assert swept(OrphanScan()) == kept | strays | {stranger}  # they are too young
    assert swept() == kept | {stranger}
    assert checksums(look(api, walk["id"])) == sums


def test_objects_that_may_still_be_recorded_stay(api: TestClient, finished: Finished) -> None:
    done = finished()
    waiting = api.post("/v1/walks", json=SMALL).json()
    kept = set(bucket.list_names("walks/")) | {put(waiting["id"]), put(done["id"])}
    let_time_pass(secret_changed_at=func.now())
    assert swept() == kept
    let_time_pass(secret_changed_at=None, deleted_at=func.now())
    assert swept() == kept
    let_time_pass(deleted_at=None, finished_at=func.now() + timedelta(minutes=1))
    assert swept() == kept


def test_an_upload_that_ends_after_its_walk_was_removed_is_deleted(api: TestClient) -> None:
    walk = api.post("/v1/walks", json=SMALL).json()
    api.post("/v1/walks", json=SMALL)

    def while_it_is_removed(work: Lease) -> Record:
        assert api.delete(f"/v1/walks/{walk['id']}").status_code == 204
        let_time_pass(deleted_at=Walk.deleted_at - timedelta(hours=1))
        reconciler.remove_walks()
        with transaction() as session:
            assert session.scalars(select(Walk.id)).all() != [UUID(walk["id"])]
        return draw(work)

    runner.run(Worker(), ChunkKind.RENDER, while_it_is_removed)
    assert len(bucket.list_names(bucket.folder_name(walk["id"]))) == 2  # the orphans
    assert swept() == set()


def test_the_scan_reads_the_bucket_page_by_page_and_then_pauses(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.post("/v1/walks", json=SMALL)
    for number in range(10):
        put(uuid4(), f"{number}.png")
    pages: list[int] = []
    listed = bucket.list_objects

    def count(prefix: str, *, start: str, limit: int) -> list[bucket.ListedObject]:
        page = listed(prefix, start=start, limit=limit)
        pages.append(len(page))
        return page

    monkeypatch.setattr(bucket, "list_objects", count)
    walk = OrphanScan(page=4, age=timedelta())
    while pages[-1:] != [0] and len(pages) < 9:
        before = len(pages)
        walk.delete_next_page()
        if len(pages) == before:
            break  # it pauses
    assert (max(pages), bucket.list_names("walks/")) == (4, [])
    assert len(pages) <= 5
    monkeypatch.setattr(orphans, "PAUSE_SECONDS", 0)
    again = OrphanScan(page=4, age=timedelta())
    put(uuid4())
    again.delete_next_page()
    put(uuid4())
    again.delete_next_page()
    assert bucket.list_names("walks/") == []


def test_with_an_empty_database_nothing_is_deleted(api: TestClient) -> None:
    kept = {put(uuid4())}
    empty()
    assert swept() == kept


def test_objects_that_are_being_moved_are_no_orphans(api: TestClient, finished: Finished) -> None:
    walk = finished(public=True)
    assert api.patch(f"/v1/walks/{walk['id']}", json={"public": False}).status_code == 200
    with transaction() as session:
        what = relocation.plan(session, UUID(walk["id"]))
    assert what
    relocation.copy(what)
    assert len(swept()) == 2 * len(urls(walk))
    reconciler.move_objects()
    assert len(swept()) == len(checksums(look(api, walk["id"])))
