"""Queue statistics of the reconciler, and what they cost."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, func, text, update

from momalisa.db.models import Chunk, Walk, Worker
from momalisa.db.session import BEGIN, engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import admin, leases, reclaim, stats, workers
from momalisa.telemetry import metrics
from momalisa.walks import service
from tests.claims import claim

MakeSpec = Callable[..., WalkSpec]

MANY = 10_000
RENDER, ASSEMBLE = (ChunkKind.RENDER, "momalisa-mini"), (ChunkKind.ASSEMBLE, "")
INK = (ChunkKind.RENDER, "ink")


def take() -> stats.QueueStats:
    with transaction() as session:
        return stats.collect(session)


def test_an_empty_queue_has_zero_counts(services: LocalStack) -> None:
    found = take()
    assert set(found.chunks.values()) == {0}
    assert set(found.chunks) == {(*need, status) for need in (RENDER, ASSEMBLE) for status in ("queued", "leased")}
    assert (found.oldest_due_seconds, found.walks[WalkStatus.QUEUED]) == ({RENDER: 0, ASSEMBLE: 0}, 0)
    assert found.walks_last_hour == {"succeeded": 0, "failed": 0, "canceled": 0}


def test_queued_leased_and_ended_work_is_counted(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        first, second, third = (
            service.create(session, spec(frames=8), public=True, owner="ann").id for _ in range(3)
        )
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
        assert claimed
        service.cancel(session, third, owner="ann")
        session.execute(
            update(Chunk)
            .where(Chunk.walk_id == second)
            .values(scheduled_at=func.now() - text("interval '90 seconds'"))
        )
    found = take()
    assert claimed.walk_id == first
    assert found.chunks[*RENDER, ChunkStatus.QUEUED] == 1
    assert found.chunks[*RENDER, ChunkStatus.LEASED] == 1
    assert 90 <= found.oldest_due_seconds[RENDER] < 120
    assert found.walks == {"queued": 1, "running": 1, "assembling": 0}
    assert found.walks_last_hour == {"succeeded": 0, "failed": 0, "canceled": 1}


def test_workers_that_were_seen_and_walks_to_remove_are_counted(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        walks = [service.create(session, spec(frames=8), public=True, owner="ann").id for _ in range(3)]
        session.execute(update(Walk).where(Walk.id == walks[0]).values(deleted_at=func.now()))
        session.execute(update(Walk).where(Walk.id == walks[1]).values(status=WalkStatus.EXPIRED))
        for name, need in (("a:1", INK), ("b:1", INK), ("c:1", ASSEMBLE)):
            workers.report_alive(session, name, *need)
        session.execute(
            update(Worker).where(Worker.name == "b:1").values(seen_at=func.now() - text("interval '1 hour'"))
        )
    found = take()
    assert found.to_remove == 2
    assert found.workers == {RENDER: 0, INK: 1, ASSEMBLE: 1}


def test_a_pause_is_reported(services: LocalStack) -> None:
    with transaction() as session:
        admin.pause(session)
    reconciler.update_gauges()
    assert (take().paused, metrics.CLAIMS_PAUSED._value.get()) == (True, 1)
    with transaction() as session:
        admin.resume(session)
    reconciler.update_gauges()
    assert (take().paused, metrics.CLAIMS_PAUSED._value.get()) == (False, 0)


def test_a_chunk_that_waits_for_its_next_attempt_is_not_due(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        service.create(session, spec(frames=8), public=True, owner="ann")
        session.execute(update(Chunk).values(priority=0, scheduled_at=func.now() + text("interval '4 minutes'")))
    assert take().oldest_due_seconds[RENDER] == 0


@pytest.fixture
def long_ago(services: LocalStack, spec: MakeSpec) -> None:
    """Many finished walks, which were neither traced nor lost."""
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO walks (id, status, owner, public, secret, spec, "
                "model, batch_size, frames_total, frames_done, finished_at) "
                "SELECT gen_random_uuid(), 'succeeded', 'ann', true, 'a secret', CAST(:spec AS jsonb), "
                "'a', 8, 8, 8, now() - interval '2 hours' FROM generate_series(1, :many)"
            ),
            {"spec": spec(frames=8).model_dump_json(), "many": MANY},
        )
        session.execute(
            text(
                "INSERT INTO chunks "
                "(walk_id, number, kind, status, tenant, model, priority, virtual_time, finished_at) "
                "SELECT id, number, 'render', 'done', 'ann', 'a', 2, 0, finished_at "
                "FROM walks, generate_series(0, 3) number"
            )
        )
        session.execute(text("ANALYZE walks, chunks"))


def test_finished_work_is_not_read(long_ago: None, spec: MakeSpec) -> None:
    with transaction() as session:
        for _ in range(5):
            service.create(session, spec(frames=8), public=True, owner="ann")
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement != BEGIN:
            statements.append((statement, parameters))

    event.listen(engine(), "before_cursor_execute", note)
    try:
        assert take().walks[WalkStatus.QUEUED] == 5
    finally:
        event.remove(engine(), "before_cursor_execute", note)
    assert len(statements) == 8
    with engine().connect() as connection:
        for statement, parameters in statements:
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
            small = any(f"FROM {table}" in statement for table in ("pauses", "workers", "models"))
            assert "Seq Scan" not in plan or small, plan


def test_a_walk_that_older_code_wrote_is_claimed_like_any_other(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        walk_id = service.create(session, spec(frames=8), public=True, owner="ann").id
        session.execute(update(Walk).values(traceparent=None))
    claimed = claim()
    assert (claimed.walk_id, claimed.traceparent, claimed.recovery_seconds) == (walk_id, None, None)


def test_the_first_claim_of_a_lost_chunk_knows_how_long_it_waited(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        service.create(session, spec(frames=4), public=True, owner="ann")
    claim()
    with transaction() as session:
        # As if it had been claimed two minutes ago.
        session.execute(update(Chunk).values(claimed_at=func.now() - text("interval '2 minutes'")))
    with transaction() as session:
        held = reclaim.current_leases(session)
    assert reclaim.reclaim([reclaim.ExpiredLease(each, 60) for each in held]) == 1
    again = claim()
    assert again.recovery_seconds
    assert 60 <= again.recovery_seconds < 90
    with transaction() as session:
        leases.release(session, again)
    assert claim().recovery_seconds is None
