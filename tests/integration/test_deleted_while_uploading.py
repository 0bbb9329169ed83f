"""A walk that is deleted while a worker uploads: the worker gives it up at once, and records nothing."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select

from momalisa.db.models import Chunk, Frame
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.local.stack import LocalStack
from momalisa.storage import bucket
from momalisa.walks import service
from tests.chaos.proxy import Proxy, Trouble
from tests.conftest import clear_caches, until
from worker import runner
from worker.lease import Lease
from worker.process.worker import Worker
from worker.recording import Record


@pytest.fixture
def proxy(services: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The bucket behind a proxy that can make it hang."""
    between = Proxy(services.variables["BUCKET_ENDPOINT"])
    monkeypatch.setenv("BUCKET_ENDPOINT", between.url)
    monkeypatch.setenv("LEASE_SECONDS", "0.3")  # so that the next heartbeat, which notices it, is soon
    clear_caches()
    yield between
    between.close()


def test_a_worker_drops_the_upload_of_a_deleted_walk_and_records_nothing(
    proxy: Proxy, spec: Callable[..., WalkSpec]
) -> None:
    with transaction() as session:
        walk_id = service.create(session, spec(), public=True, owner="ann").id
    hung = []

    def upload_and_record(kept: Lease) -> Record:
        def upload(position: float) -> None:
            name = bucket.folder_name(walk_id) + f"{position}.png"
            bucket.upload(name, b"a picture", "image/png", check=kept.checkpoint)

        def delete() -> None:
            until(lambda: proxy.met)
            with transaction() as session:
                service.delete(session, walk_id, owner="ann")

        proxy.trouble = Trouble.HANG
        try:
            kept.run_concurrently(lambda work: work(), [lambda: upload(kept.claim.frames[0].position), delete])
        finally:
            hung.append(proxy.trouble)  # it did not wait for the upload, which still hangs
            proxy.trouble = None
        raise AssertionError("it went on")

    runner.run(Worker(), ChunkKind.RENDER, upload_and_record)
    assert hung == [Trouble.HANG]
    with transaction() as session:
        [chunk] = session.scalars(select(Chunk))
        recorded = session.scalar(select(func.count()).where(Frame.object.is_not(None)))
    assert (chunk.status, chunk.error, recorded) == (ChunkStatus.DROPPED, None, 0)
