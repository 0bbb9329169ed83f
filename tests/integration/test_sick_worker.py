"""A worker that fails where others succeed backs off; and what operators see and do about failures."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, func, select, text, update
from sqlalchemy.orm import Session, undefer

from momalisa.db.models import Chunk, Walk
from momalisa.db.session import engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.errors import WalkEndedError
from momalisa.local.stack import LocalStack
from momalisa.queue import admin, estimate, leases, lifecycle, results, stats
from momalisa.queue.leases import Claim
from momalisa.settings import ROOT, environment, settings
from momalisa.walks import queries, service
from tests.claims import finish, made_frames
from tests.conftest import until
from worker import recording, runner
from worker.lease import Lease
from worker.process.worker import Worker
from worker.recording import Record

SICK, WELL = "sick:1", "well:2"


@pytest.fixture
def make(services: LocalStack, spec: Callable[..., WalkSpec]) -> Callable[..., UUID]:
    def submit(frames: int = 4) -> UUID:
        with transaction() as session:
            return service.create(session, spec(frames=frames), public=True, owner="ann").id

    return submit


def claim(parent: str = "") -> Claim | None:
    with transaction() as session:
        return leases.claim(session, ChunkKind.RENDER, f"{parent}.child", parent)


def render_all() -> None:
    """Render every queued chunk, and those that follow."""

    def nothing_is_left() -> bool:
        claimed = claim(WELL)
        if claimed:
            finish(claimed)
        return claimed is None

    until(nothing_is_left, pause=0)


def fail(claimed: Claim, error: str = "CUDA error") -> None:
    with transaction() as session:
        leases.attempt_failed(session, claimed, error)


def make_due(**changes: object) -> None:
    with transaction() as session:
        session.execute(
            update(Chunk).where(Chunk.status == ChunkStatus.QUEUED).values(scheduled_at=func.now(), **changes)
        )


def test_a_failed_chunk_is_left_to_other_busy_workers_until_none_is_busy(
    make: Callable[..., UUID],
) -> None:
    make(frames=24)
    failed, theirs = claim(SICK), claim(WELL)
    assert failed
    assert theirs
    fail(failed)
    make_due()
    mine = claim(SICK)
    assert mine
    assert mine.number != failed.number  # although retries come first
    with transaction() as session:
        leases.release(session, mine)
    finish(theirs)
    again = claim(SICK)  # no other worker is busy
    assert again
    assert again.number == failed.number


def test_a_chunk_that_failed_everywhere_is_not_left_to_others_forever(make: Callable[..., UUID]) -> None:
    make(frames=24)
    failed, theirs = claim(SICK), claim(WELL)
    assert failed
    assert theirs
    fail(failed)
    this = Chunk.number == failed.number
    with transaction() as session:
        session.execute(update(Chunk).where(this).values(failed_on=[SICK, WELL], scheduled_at=func.now()))
    busy = claim(WELL)
    assert busy
    assert busy.number != failed.number
    with transaction() as session:
        long_ago = func.now() - text("interval '6 minutes'")
        session.execute(update(Chunk).where(this).values(scheduled_at=long_ago))
    again = claim(SICK)  # although others are busy
    assert again
    assert again.number == failed.number


def test_a_claim_that_avoids_failed_chunks_still_uses_the_index(make: Callable[..., UUID]) -> None:
    for _ in range(3):
        make(frames=200)
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "SKIP LOCKED" in statement:
            seen.append((statement, parameters))

    event.listen(engine(), "before_cursor_execute", note)
    try:
        assert claim(SICK)
    finally:
        event.remove(engine(), "before_cursor_execute", note)
    [(statement, parameters)] = seen
    with engine().connect() as connection:
        connection.exec_driver_sql("ANALYZE chunks")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # a small table would be scanned
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        lines = [row[0] for row in plan]
    assert any("Index Scan using chunks_queued" in line for line in lines), lines
    assert not any("Sort" in line for line in lines), lines


def test_a_worker_that_fails_where_others_succeed_backs_off_says_why_and_recovers(
    make: Callable[..., UUID], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sick worker is this process, by the real loop; another one works in parallel: 66 chunks of 12 walks."""
    rested: list[float] = []
    monkeypatch.setattr(worker.shutdown, "wait", rested.append)
    walks = [make(frames=44) for _ in range(11)]
    claims: Counter[str] = Counter()
    sick = True

    def work(kept: Lease) -> Record:
        claims[SICK] += 1
        if sick:
            raise RuntimeError("CUDA error")
        made = made_frames(kept.claim)
        return lambda session: results.record_frames(session, kept.claim, made)

    def wake() -> None:
        try:
            if not worker.health.backoff_seconds():  # a real worker would wait here
                runner.run(worker, ChunkKind.RENDER, work)
        except SystemExit:
            worker.failed_walks.clear()  # a new process on the same device

    while well := claim(WELL):
        claims[WELL] += 1
        assert claims[WELL] < 1000
        for _ in range(4):  # it fails faster than others render
            wake()
        finish(well)
        make_due()
    assert claims[WELL] >= 66
    assert claims[SICK] <= 6
    with transaction() as session:
        states = {queries.get(session, walk_id, viewer=None).status for walk_id in walks}
    assert states == {WalkStatus.ASSEMBLING}
    trouble = worker.monitor.readiness_failure()
    assert trouble
    assert "fails where others succeed" in trouble
    assert "CUDA error" in trouble
    # Its next attempts, at growing intervals, until the fault is gone.
    make(frames=44)
    pauses = []
    for _ in range(6):
        pauses.append(worker.health.backoff_seconds())
        make_due(attempts=0)
        with pytest.raises(SystemExit) if worker.failed_walks else nothing():
            runner.run(worker, ChunkKind.RENDER, work)
        worker.failed_walks.clear()
    assert [round(pause / 30) for pause in pauses] == [1, 2, 4, 8, 16, 20]
    sick = False
    make_due(attempts=0)
    runner.run(worker, ChunkKind.RENDER, work)
    assert worker.health.failure() is None
    assert len(rested) == 7


def nothing() -> Any:
    from contextlib import nullcontext  # noqa: PLC0415

    return nullcontext()


def test_if_no_worker_succeeds_none_backs_off(make: Callable[..., UUID], worker: Worker) -> None:
    for _ in range(4):
        make()
        make_due()
        worker.health.record_failure(ChunkKind.RENDER, "the bucket is away")
    assert worker.health.backoff_seconds() == 0


def test_the_success_of_workers_with_another_model_says_nothing(
    make: Callable[..., UUID], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    worker.health.record_failure(ChunkKind.RENDER, "the weights are broken")
    claimed = claim(WELL)
    assert claimed
    finish(claimed)
    with monkeypatch.context() as other:
        other.setenv("MODEL", "/models/ink")
        settings.cache_clear()
        worker.health.record_failure(ChunkKind.RENDER, "the weights are broken")
        assert worker.health.backoff_seconds() == 0
    settings.cache_clear()
    worker.health.record_failure(ChunkKind.RENDER, "the weights are broken")
    assert worker.health.backoff_seconds() > 0


def momalisa(services: LocalStack, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "momalisa", "queue", *arguments],
        cwd=ROOT,
        env=environment(**services.variables),
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


def test_the_history_of_attempts_is_kept_and_a_failed_walk_can_be_retried(
    make: Callable[..., UUID], services: LocalStack
) -> None:
    walk_id = make(frames=12)
    first = claim(WELL)
    assert first
    finish(first)
    for number in range(settings().max_attempts):
        claimed = claim(SICK)
        assert claimed
        failed_number = claimed.number
        fail(claimed, f"CUDA error {number}")
        make_due()
    with transaction() as session:
        assert queries.get(session, walk_id, viewer=None).status == WalkStatus.FAILED
    shown = momalisa(services, "show", str(walk_id))
    assert "0 render done, attempts: 1, last worker: well:2.child" in shown
    assert all(f"attempt {n + 1} on sick:1.child: CUDA error {n}" in shown for n in range(5))
    assert "queued again" in momalisa(services, "retry", str(walk_id))
    with transaction() as session:
        walk = session.get_one(Walk, walk_id)
        assert (walk.status, walk.error_code, walk.finished_at) == (WalkStatus.RUNNING, None, None)
        failed = session.scalars(select(Chunk).where(Chunk.number == failed_number).options(undefer(Chunk.history)))
        [chunk] = failed
        assert (chunk.status, chunk.attempts, chunk.failed_on, len(chunk.history)) == (ChunkStatus.QUEUED, 0, [], 5)
        json.dumps(chunk.history)
    render_all()
    with transaction() as session:
        assert queries.get(session, walk_id, viewer=None).status == WalkStatus.ASSEMBLING
        with pytest.raises(WalkEndedError, match="Only a failed walk"):
            admin.retry(session, walk_id)


def retry(walk_id: UUID) -> None:
    with transaction() as session:
        admin.retry(session, walk_id)


def fail_walk(walk_id: UUID) -> None:
    with transaction() as session:
        assert lifecycle.end_walk(
            session, walk_id, WalkStatus.FAILED, error_code="deadline_exceeded", error_message="late"
        )


def assembly() -> Claim:
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.ASSEMBLE, WELL)
    assert claimed
    return claimed


def test_a_retried_walk_alternates_with_others(make: Callable[..., UUID]) -> None:
    late = make(frames=24)
    fail_walk(late)
    with transaction() as session:
        service.create(session, session.get_one(Walk, late).spec, public=True, owner="bob")
    retry(late)
    with transaction() as session:
        walk = session.get_one(Walk, late)
        assert (walk.status, walk.started_at) == (WalkStatus.QUEUED, None)
    served = [claimed.walk_id == late for _ in range(4) if (claimed := claim(WELL))]
    assert sum(served) == 2


def test_a_retry_renders_lost_frames_before_it_assembles(
    make: Callable[..., UUID],
) -> None:
    walk_id = make()
    render_all()
    assembling = assembly()
    with transaction() as session:
        results.requeue_frames(session, assembling, [assembling.frames[0].position])
    fail_walk(walk_id)
    retry(walk_id)
    with transaction() as session:
        assert leases.claim(session, ChunkKind.ASSEMBLE, WELL) is None
    render_all()
    assembling = assembly()
    assert not any(frame.missing for frame in assembling.frames)


def test_a_retry_resets_attempts_of_repeatedly_lost_frames(make: Callable[..., UUID]) -> None:
    def lose_a_frame() -> None:
        assembling = assembly()
        with transaction() as session:
            results.requeue_frames(session, assembling, [assembling.frames[0].position])

    walk_id = make()
    for _ in range(settings().max_attempts):
        render_all()
        lose_a_frame()
    with transaction() as session:
        assert session.get_one(Walk, walk_id).status == WalkStatus.FAILED
    retry(walk_id)
    lose_a_frame()
    with transaction() as session:
        assert session.get_one(Walk, walk_id).status == WalkStatus.ASSEMBLING
    assert claim(WELL)


def test_a_walk_that_expires_during_a_retry_is_not_retried(
    make: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    walk_id = make()
    fail_walk(walk_id)
    look = admin._status

    def look_too_early(session: Session, walk: UUID) -> WalkStatus:
        seen = look(session, walk)
        with transaction() as other:
            other.execute(update(Walk).values(status=WalkStatus.EXPIRED))
        return seen

    monkeypatch.setattr(admin, "_status", look_too_early)
    with pytest.raises(WalkEndedError, match="expired"):
        retry(walk_id)
    with transaction() as session:
        assert session.get_one(Walk, walk_id).status == WalkStatus.EXPIRED


def test_a_query_that_always_times_out_is_not_retried_forever(
    make: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(session: Session) -> None:
        session.execute(text("SET LOCAL statement_timeout = '1ms'"))
        session.execute(text("SELECT pg_sleep(60)"))

    monkeypatch.setattr(recording, "RETRY_SECONDS", -1)
    walk_id = make()
    for _ in range(settings().max_attempts):
        with suppress(SystemExit):
            runner.run(Worker(), ChunkKind.RENDER, lambda _: slowly)
        make_due(failed_on=[])
    with transaction() as session:
        assert session.get_one(Walk, walk_id).status == WalkStatus.FAILED


def test_a_walk_with_only_flagged_frames_is_not_retried(make: Callable[..., UUID]) -> None:
    walk_id = make()
    render_all()
    with transaction() as session:
        results.fail_without_frames(session, assembly())
    with pytest.raises(WalkEndedError, match="none may be shown"):
        retry(walk_id)
    with transaction() as session:
        assert session.get_one(Walk, walk_id).status == WalkStatus.FAILED


def test_the_history_of_a_chunk_is_bounded(make: Callable[..., UUID]) -> None:
    make()
    for _ in range(leases.MAX_HISTORY + 3):
        with transaction() as session:
            session.execute(update(Chunk).values(attempts=0))
        claimed = claim(SICK)
        assert claimed
        fail(claimed, "x" * 5000)
        make_due()
    with transaction() as session:
        [chunk] = session.scalars(select(Chunk).options(undefer(Chunk.history)))
    assert len(chunk.history) == leases.MAX_HISTORY
    assert len(chunk.history[0]["error"]) == leases.MAX_ERROR_LENGTH
    assert chunk.failed_on == [SICK]


def test_claims_can_be_paused(make: Callable[..., UUID]) -> None:
    walk_id = make()

    def change(what: Callable[[Session], None]) -> None:
        with transaction() as session:
            what(session)

    change(admin.pause)
    change(admin.pause)  # repeating it changes nothing
    with transaction() as session:
        assert stats.count_ready(session) == {}
        waiting_for = estimate.estimate(session, queries.get(session, walk_id, viewer=None)).waiting_for
    assert waiting_for == "The queue is paused; the walk continues once it is resumed."
    assert claim(WELL) is None
    change(admin.resume)
    assert claim(WELL)
