"""A walk that is deleted while a worker uploads: the worker lets go at once, and records nothing of it."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select

from momalisa import jobs, storage
from momalisa.database import transaction
from momalisa.local import System
from momalisa.spec import WalkSpec
from momalisa.tables import Chunk, ChunkKind, ChunkStatus, Frame
from tests.chaos.proxy import Proxy, Trouble
from tests.conftest import forget, until
from worker import lease
from worker.lease import Lease


@pytest.fixture
def bucket(services: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The bucket behind what can make it hang."""
    proxy = Proxy(services.variables["BUCKET_ENDPOINT"])
    monkeypatch.setenv("BUCKET_ENDPOINT", proxy.url)
    monkeypatch.setenv("LEASE_SECONDS", "0.3")  # so that heartbeats come soon, by which the worker learns of it
    forget()
    yield proxy
    proxy.close()


def test_a_worker_drops_the_upload_of_a_walk_that_was_deleted_and_records_nothing(
    bucket: Proxy, spec: Callable[..., WalkSpec]
) -> None:
    with transaction() as session:
        walk_id = jobs.create(session, spec(), public=True, owner="ann").id
    hung = []

    def upload_and_record(kept: Lease) -> lease.Record:
        def upload(position: float) -> None:
            name = storage.folder_name(walk_id) + f"{position}.png"
            storage.put(name, b"a picture", "image/png", check=kept.check)

        def delete() -> None:
            until(lambda: bucket.met)
            with transaction() as session:
                jobs.delete(session, walk_id, owner="ann")

        bucket.trouble = Trouble.HANG
        try:
            kept.at_once(lambda work: work(), [lambda: upload(kept.claim.frames[0].position), delete])
        finally:
            hung.append(bucket.trouble)  # it did not wait for the upload, which hangs still
            bucket.trouble = None
        raise AssertionError("it went on")

    lease.run(ChunkKind.RENDER, upload_and_record)
    assert hung == [Trouble.HANG]
    with transaction() as session:
        [chunk] = session.scalars(select(Chunk))
        recorded = session.scalar(select(func.count()).where(Frame.object.is_not(None)))
    assert (chunk.status, chunk.error, recorded) == (ChunkStatus.DROPPED, None, 0)
