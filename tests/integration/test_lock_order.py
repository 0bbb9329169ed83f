"""Transactions that lock the rows of one walk do so in one order, and never deadlock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk, Walk
from momalisa.db.session import engine, transaction
from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.errors import LeaseLostError
from momalisa.maintenance import retention
from momalisa.queue import leases, lifecycle, reclaim, results
from momalisa.queue.reclaim import ExpiredLease
from momalisa.settings import settings
from momalisa.walks import moderation, service
from tests.claims import made_frames
from tests.conftest import until

pytestmark = pytest.mark.usefixtures("services")


@pytest.fixture
def walk_id(spec: Callable[..., WalkSpec]) -> UUID:
    """A walk of three chunks."""
    with transaction() as session:
        return service.create(session, spec(frames=24), public=True, owner="ann").id


def somebody_waits() -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine().connect() as connection:
        return bool(connection.scalar(waiting) == 1)


def meet(
    first: Callable[[Session], object], other: Callable[[], object], then: Callable[[Session], object]
) -> None:
    """Take locks in one transaction; once another waits for them, the first takes more."""
    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            first(session)
            met = pool.submit(other)
            until(somebody_waits)
            then(session)
        met.result()


def test_reclaiming_a_lease_and_canceling_its_walk(walk_id: UUID) -> None:
    """The reconciler reclaims another chunk before the one that fails the walk."""
    with transaction() as session:
        claimed = [leases.claim(session, ChunkKind.RENDER, "here") for _ in range(3)]
        assert all(claimed)
        session.execute(update(Chunk).where(Chunk.number == 2).values(attempts=settings().max_attempts))
    with transaction() as session:
        lost = [ExpiredLease(held, 1) for held in reclaim.current_leases(session) if held.number]

    def reclaim_leases() -> None:
        assert reclaim.reclaim(lost) == 1  # the walk was canceled in the meantime

    def lock_a_chunk(session: Session) -> None:
        session.execute(select(Chunk.number).where(Chunk.number == 0).with_for_update())

    meet(lock_a_chunk, reclaim_leases, lambda session: service.cancel(session, walk_id, owner="ann"))
    with transaction() as session:
        assert set(session.scalars(select(Chunk.status))) == {ChunkStatus.DROPPED}


def test_a_locked_chunk_delays_the_reclaim_of_no_other(walk_id: UUID) -> None:
    with transaction() as session:
        assert all(leases.claim(session, ChunkKind.RENDER, "here") for _ in range(3))
    with transaction() as session:
        lost = [ExpiredLease(held, 1) for held in reclaim.current_leases(session)]
    with transaction() as session:
        session.execute(select(Chunk.number).where(Chunk.number == 1).with_for_update())
        assert reclaim.reclaim(lost) == 2
    assert reclaim.reclaim(lost) == 1


def test_recording_a_chunk_that_others_wait_for_and_canceling_its_walk(spec: Callable[..., WalkSpec]) -> None:
    """Once the last denoised chunk is recorded, the next one may be interpolated."""
    pins = Pins(
        batches=[
            Batch(size=2, positions=[0, 1]),
            Batch(size=2, positions=[0.5]),
            Batch(size=2, positions=[0.25], interpolated=True),
        ]
    )
    with transaction() as session:
        walk_id = service.create(session, spec(frames=4, exact=False), public=True, owner="ann", pins=pins).id
    with transaction() as session:
        first, last = (leases.claim(session, ChunkKind.RENDER, "here") for _ in range(2))
        assert first
        assert last
        assert last.number == 1
        results.record_frames(session, first, made_frames(first))

    def record_the_last() -> None:
        with suppress(LeaseLostError), transaction() as session:
            results.record_frames(session, last, made_frames(last))

    def lock_some(session: Session) -> None:
        some = select(Chunk.number).where(Chunk.walk_id == walk_id, Chunk.number <= last.number)
        session.execute(some.order_by(Chunk.number).with_for_update())

    meet(lock_some, record_the_last, lambda session: service.cancel(session, walk_id, owner="ann"))
    with transaction() as session:
        assert session.scalar(select(Walk.status)) == WalkStatus.CANCELED


def test_removing_an_expired_walk_and_hiding_it(walk_id: UUID) -> None:
    with transaction() as session:
        lifecycle.end_walk(session, walk_id, WalkStatus.CANCELED)
        session.execute(update(Walk).values(status=WalkStatus.EXPIRED))
    meet(
        lambda session: lifecycle.lock_chunks(session, walk_id),  # as `hide` does first
        retention.remove,
        lambda session: moderation.hide(session, walk_id),
    )
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Walk)) == 0
