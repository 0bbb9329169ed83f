"""The loop of a worker: claims, leases, failures, hangs and shutdown."""

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Never
from uuid import UUID

import pytest
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.errors import LeaseLostError, StoreUnavailableError
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import celery_app, estimate, leases, results, workers
from momalisa.queue.lifecycle import Ready
from momalisa.settings import ROOT, environment, settings
from momalisa.telemetry import metrics
from momalisa.walks import queries, service
from tests.claims import made_frames
from tests.conftest import until
from tests.frozen import frozen
from worker import runner
from worker.lease import Lease
from worker.process.worker import Worker
from worker.recording import Record

MakeSpec = Callable[..., WalkSpec]


@pytest.fixture
def make(services: LocalStack, spec: MakeSpec) -> Callable[[], UUID]:
    def make_walk() -> UUID:
        with transaction() as session:
            return service.create(session, spec(frames=8), public=True, owner="ann").id

    return make_walk


def chunk() -> Chunk:
    with transaction() as session:
        return session.scalars(select(Chunk).order_by(Chunk.created_at)).first() or Chunk()


def done(kept: Lease) -> Record:
    stored = made_frames(kept.claim)

    def record(session: Session) -> Ready | None:
        return results.record_frames(session, kept.claim, stored)

    return record


def recording(worked: list[Lease]) -> Callable[[Lease], Record]:
    """Return work that records its calls, because an assertion in it would only be a failed attempt."""

    def work(kept: Lease) -> Record:
        worked.append(kept)
        return done(kept)

    return work


def failing(error: Exception) -> Callable[[Lease], Never]:
    def fail(kept: Lease) -> Never:
        raise error

    return fail


def test_a_finished_chunk_is_recorded_and_what_follows_is_published(
    worker: Worker, make: Callable[[], UUID]
) -> None:
    make()
    runner.run(worker, ChunkKind.RENDER, done)
    assert chunk().status == ChunkStatus.DONE
    assert celery_app.count_messages(ChunkKind.ASSEMBLE) == 1


def test_a_surplus_message_claims_nothing(worker: Worker, make: Callable[[], UUID]) -> None:
    worked: list[Lease] = []
    runner.run(worker, ChunkKind.RENDER, recording(worked))
    assert worked == []
    make()
    runner.run(worker, ChunkKind.RENDER, recording(worked))
    assert worked


def test_a_stopping_worker_claims_nothing_and_releases_its_chunk(worker: Worker, make: Callable[[], UUID]) -> None:
    make()

    def work_until_stopped(kept: Lease) -> Record:
        worker.shutdown.request()
        kept.checkpoint()
        raise AssertionError("it should have stopped")

    runner.run(worker, ChunkKind.RENDER, work_until_stopped)
    assert (chunk().status, chunk().attempts, chunk().priority) == (ChunkStatus.QUEUED, 0, 0)
    assert celery_app.count_messages(ChunkKind.RENDER) == 1
    worked: list[Lease] = []
    runner.run(worker, ChunkKind.RENDER, recording(worked))
    assert worked == []
    runner.run(Worker(), ChunkKind.RENDER, recording(worked))
    assert worked


def test_an_unavailable_database_is_not_a_failed_attempt(worker: Worker, make: Callable[[], UUID]) -> None:
    make()
    runner.run(worker, ChunkKind.RENDER, failing(StoreUnavailableError("away")))
    assert (chunk().status, chunk().attempts) == (ChunkStatus.QUEUED, 0)


def test_a_failed_attempt_is_counted_and_backs_off(worker: Worker, make: Callable[[], UUID]) -> None:
    make()
    runner.run(worker, ChunkKind.RENDER, failing(ValueError("no")))
    assert (chunk().status, chunk().attempts, chunk().error) == (ChunkStatus.QUEUED, 1, "ValueError: no")
    assert celery_app.count_messages(ChunkKind.RENDER) == 0  # it is not due yet


def test_a_process_that_fails_two_walks_in_a_row_ends(worker: Worker, make: Callable[[], UUID]) -> None:
    for _ in range(3):
        make()
    runner.run(worker, ChunkKind.RENDER, failing(MemoryError()))
    with pytest.raises(SystemExit):
        runner.run(worker, ChunkKind.RENDER, failing(MemoryError()))
    runner.run(Worker(), ChunkKind.RENDER, done)


def test_one_failing_walk_does_not_end_a_process(worker: Worker, make: Callable[[], UUID]) -> None:
    walk_id = make()
    for _ in range(settings().max_attempts):
        with transaction() as session:
            session.execute(update(Chunk).values(scheduled_at=func.now()))
        runner.run(worker, ChunkKind.RENDER, failing(OSError("no")))
    with transaction() as session:
        assert queries.get(session, walk_id, viewer=None).status == WalkStatus.FAILED


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [
        ([ValueError("too few steps")], 2),
        ([ValueError("too few steps"), ValueError("another thing")], 5),
        ([RuntimeError("CUDA error")], 5),
        ([OSError("no space left")], 5),
    ],
)
def test_deterministic_errors_are_tried_twice_and_others_more_often(
    worker: Worker, make: Callable[[], UUID], errors: list[Exception], attempts: int
) -> None:
    walk_id = make()
    for error in itertools.islice(itertools.cycle(errors), settings().max_attempts):
        with transaction() as session:
            session.execute(update(Chunk).values(scheduled_at=func.now()))
        runner.run(worker, ChunkKind.RENDER, failing(error))
    with transaction() as session:
        walk = queries.get(session, walk_id, viewer=None)
    assert (walk.status, walk.error_code) == (WalkStatus.FAILED, "render_failed")
    assert ("the same error occurs each time" in (walk.error_message or "")) == (attempts == 2)
    assert chunk().attempts == attempts


def test_a_worker_claims_until_nothing_is_left(worker: Worker, make: Callable[[], UUID]) -> None:
    """One message suffices for a backlog."""
    for _ in range(3):
        make()
    runner.run(worker, ChunkKind.RENDER, done)
    with transaction() as session:
        rendered = select(Chunk.status).where(Chunk.kind == ChunkKind.RENDER)
        assert list(session.scalars(rendered)) == [ChunkStatus.DONE] * 3


def test_a_worker_acknowledges_a_message_after_a_while(
    worker: Worker, make: Callable[[], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker would consider it lost, and deliver it again."""
    monkeypatch.setattr(runner, "MESSAGE_SECONDS", 0)
    for _ in range(2):
        make()
    runner.run(worker, ChunkKind.RENDER, done)
    with transaction() as session:
        rendered = select(Chunk.status).where(Chunk.kind == ChunkKind.RENDER)
        assert sorted(session.scalars(rendered)) == [ChunkStatus.DONE, ChunkStatus.QUEUED]


def test_a_walk_waits_for_a_worker_with_its_model_and_says_so(
    worker: Worker, make: Callable[[], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", "another")
    settings.cache_clear()
    walk_id = make()
    monkeypatch.delenv("MODEL")
    settings.cache_clear()
    with transaction() as session:
        workers.report_alive(session, "there:1", ChunkKind.RENDER, settings().model_name)
    runner.run(worker, ChunkKind.RENDER, failing(AssertionError("it was rendered all the same")))
    with transaction() as session:
        walk = queries.get(session, walk_id, viewer=None)
        ahead = estimate.estimate(session, walk)
    assert (walk.status, chunk().attempts) == (WalkStatus.QUEUED, 0)
    assert ahead.waiting_for == "No worker with the model another is running; the walk is waiting for one."
    with transaction() as session:
        workers.report_alive(session, "there:2", ChunkKind.RENDER, "another")
        assert estimate.estimate(session, walk).waiting_for is None
        workers.report_gone(session, "there:2")
        assert estimate.estimate(session, walk).waiting_for


def test_heartbeats_keep_a_lease_and_notice_its_loss(
    worker: Worker, make: Callable[[], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "0.3")
    settings.cache_clear()
    walk_id, noticed = make(), threading.Event()

    def work_past_the_lease(kept: Lease) -> Record:
        before = chunk().lease_expires_at
        until(lambda: kept.checkpoint() or chunk().lease_expires_at != before)  # type: ignore[func-returns-value]
        with transaction() as session:
            service.cancel(session, walk_id, owner="ann")
        with pytest.raises(LeaseLostError):
            until(kept.checkpoint)
        noticed.set()
        raise LeaseLostError

    runner.run(worker, ChunkKind.RENDER, work_past_the_lease)
    assert noticed.is_set()
    assert chunk().status == ChunkStatus.DROPPED


def test_a_hanging_transfer_does_not_delay_the_release(worker: Worker, make: Callable[[], UUID]) -> None:
    """The chunk is released while a thread still hangs in an upload."""
    make()
    released = threading.Event()

    def upload_forever(kept: Lease) -> Record:
        def upload(_: int) -> None:
            worker.shutdown.request()
            released.wait(60)

        kept.run_concurrently(upload, range(3))
        raise AssertionError("it should have stopped")

    runner.run(worker, ChunkKind.RENDER, upload_forever)
    assert (chunk().status, chunk().attempts) == (ChunkStatus.QUEUED, 0)
    released.set()


def test_abandoned_threads_end_at_their_next_checkpoint(worker: Worker, make: Callable[[], UUID]) -> None:
    make()
    begun, ended = threading.Event(), threading.Event()

    def fail_beside_another(kept: Lease) -> Record:
        def step_forever() -> None:
            try:
                while True:
                    kept.checkpoint()
                    begun.set()
            except LeaseLostError:
                ended.set()
                raise

        def fail() -> None:
            begun.wait(60)
            raise RuntimeError("out of luck")

        kept.run_concurrently(lambda work: work(), [step_forever, fail])
        raise AssertionError("it failed")

    runner.run(worker, ChunkKind.RENDER, fail_beside_another)
    assert chunk().error == "RuntimeError: out of luck"
    assert ended.wait(60)


def test_threads_log_with_the_context_of_the_chunk(worker: Worker, make: Callable[[], UUID]) -> None:
    walk_id = make()
    known = []

    def collect_context(kept: Lease) -> Record:
        known.extend(kept.run_concurrently(lambda _: structlog.contextvars.get_contextvars(), range(2)))
        return lambda _: None

    runner.run(worker, ChunkKind.RENDER, collect_context)
    assert [context["walk"] for context in known] == [str(walk_id)] * 2


HANGS = """
import threading
from momalisa.domain.states import ChunkKind
from worker import runner
from worker.process.worker import Worker
def hang(kept):
    {}
runner.run(Worker(), ChunkKind.RENDER, hang)
"""


@pytest.mark.parametrize(
    "hang", ["threading.Event().wait()", "kept.run_concurrently(threading.Event().wait, [None])"]
)
def test_a_hanging_process_ends_itself_and_its_chunk_is_free(
    make: Callable[[], UUID], services: LocalStack, hang: str
) -> None:
    make()
    assert ended_by_itself(HANGS.format(hang), services) == 1
    assert (chunk().status, chunk().error) == (ChunkStatus.QUEUED, "its worker hung")


def ended_by_itself(program: str, services: LocalStack) -> int:
    """Return the exit code of a worker whose STALL_SECONDS is one second."""
    variables = {**services.variables, "STALL_SECONDS": "1", "LEASE_SECONDS": "3"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment(**variables), timeout=60, check=False).returncode


STARVES = """
import threading
from momalisa.domain.states import ChunkKind
from momalisa.queue import leases
from worker import runner
from worker.process.worker import Worker
def claim(*arguments, **named):
    claimed = real_claim(*arguments, **named)
    threading.Thread.start = lambda thread: threading.Event().wait()
    return claimed
def work(kept):
    kept.run_concurrently(len, ["something"])
real_claim, leases.claim = leases.claim, claim
runner.run(Worker(), ChunkKind.RENDER, work)
"""
"""Once a chunk is claimed, starting a thread blocks forever, as when memory has run out."""


def test_a_process_that_can_start_no_thread_ends_itself_and_its_chunk_is_free(
    make: Callable[[], UUID], services: LocalStack
) -> None:
    make()
    assert ended_by_itself(STARVES, services) == 1
    assert (chunk().status, chunk().error) == (ChunkStatus.QUEUED, "its worker hung")


@contextmanager
def reconciling(services: LocalStack, **variables: str) -> Iterator[None]:
    """Run a reconciler during the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "momalisa", "reconcile"],
        cwd=ROOT,
        env=environment(**{**services.variables, **variables}),
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_a_hanging_broker_does_not_delay_reclaiming(make: Callable[[], UUID], services: LocalStack) -> None:
    make()
    with transaction() as session:
        assert leases.claim(session, ChunkKind.RENDER, "here")
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        broker = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with reconciling(services, BROKER_URL=broker, LEASE_SECONDS="0.1", RECONCILE_SECONDS="0.2"):
            until(lambda: chunk().status == ChunkStatus.QUEUED, 30)
            for _ in range(3):  # again, while the other task still waits for the broker
                with transaction() as session:
                    session.execute(
                        update(Chunk).values(
                            status=ChunkStatus.LEASED,
                            lease_token=func.gen_random_uuid(),
                            lease_expires_at=func.now(),
                        )
                    )
                until(lambda: chunk().status == ChunkStatus.QUEUED, 5)


def test_no_live_lease_expires_while_the_database_is_frozen(
    make: Callable[[], UUID], services: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker can send a heartbeat during that time, so each has a whole lease for it afterwards."""
    monkeypatch.setenv("LEASE_SECONDS", "1.5")
    monkeypatch.setenv("RECONCILE_SECONDS", "0.1")
    settings.cache_clear()
    make()
    with transaction() as session:
        claim = leases.claim(session, ChunkKind.RENDER, "here")
    postgres = services.children["postgres"].process
    assert claim
    assert postgres
    over, looks = threading.Event(), []

    def look() -> None:
        while not over.wait(0.05):
            reconciler.reclaim_expired()
            looks.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            until(lambda: len(looks) > 2)
            with frozen(postgres.pid):
                time.sleep(2)
            seen = len(looks)
            until(lambda: len(looks) > seen + 2)
            with transaction() as session:
                leases.heartbeat(session, claim)
            until(lambda: chunk().status == ChunkStatus.QUEUED)  # that was its last one
        finally:
            over.set()
        looking.result()


def test_the_late_report_of_a_lost_lease_is_dropped(worker: Worker, make: Callable[[], UUID]) -> None:
    make()

    def lose_lease(kept: Lease) -> Record:
        with transaction() as session:
            leases.release(session, kept.claim)
        with pytest.raises(LeaseLostError):
            kept.verify()
        return done(kept)

    runner.run(worker, ChunkKind.RENDER, lose_lease)
    assert (chunk().status, chunk().finished_at) == (ChunkStatus.QUEUED, None)


def frames() -> tuple[float, float]:
    """Return the numbers of frames that this process has rendered and recorded, and rendered in vain."""
    registry = CollectorRegistry()
    registry.register(metrics.FRAMES_RENDERED)
    registry.register(metrics.FRAMES_WASTED)
    names = ("momalisa_frames_rendered_total", "momalisa_frames_wasted_total")
    labels = {"model": settings().model_name}
    rendered, wasted = (registry.get_sample_value(name, labels) or 0 for name in names)
    return rendered, wasted


def test_rendered_frames_count_as_recorded_or_as_wasted(worker: Worker, make: Callable[[], UUID]) -> None:
    make()

    def rendered(kept: Lease) -> Record:
        kept.rendered, kept.to_record = 8, 5  # three existed before, and completed the batch
        return done(kept)

    def rendered_in_vain(kept: Lease) -> Never:
        kept.rendered, kept.to_record = 8, 8
        raise StoreUnavailableError("away")

    def stopped_before(kept: Lease) -> Never:
        raise StoreUnavailableError("away")

    before = frames()
    runner.run(worker, ChunkKind.RENDER, stopped_before)
    assert frames() == before
    runner.run(worker, ChunkKind.RENDER, rendered_in_vain)
    assert frames() == (before[0], before[1] + 8)
    runner.run(worker, ChunkKind.RENDER, rendered)
    assert frames() == (before[0] + 5, before[1] + 11)
