"""The reconciler: reclaims expired leases, publishes missing messages, delivers webhooks, and expires walks."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from types import FrameType

import requests
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, DeliveryStatus
from momalisa.errors import StoreUnavailableError
from momalisa.maintenance import retention
from momalisa.maintenance.orphans import OrphanScan
from momalisa.queue import budgets, catalog, celery_app, fairness, lifecycle, reclaim, stats, workers
from momalisa.settings import settings
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import cause, logger
from momalisa.walks import idempotency, relocation
from momalisa.webhooks import deliveries, sender

log = logger(__name__)

SENDERS = 8
"""Webhooks sent concurrently, so that slow receivers delay only each other."""

HANG_SECONDS = 600
"""A round that takes longer hangs: everything that it waits for times out earlier."""

EXPECTED_ERRORS = (StoreUnavailableError, GoogleAPIError, GoogleAuthError, requests.RequestException)
"""What a task raises while PostgreSQL or the bucket is down or refuses access; logged without a traceback."""

Task = Callable[[], bool | None]
"""Does one round of its work; returns whether there may be more to do immediately."""


class TaskHeartbeats:
    """When each task last started a round, for the health check."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._started = time.monotonic()
        self.last_rounds: dict[int, float] = {}
        """By the index of the task, in monotonic seconds."""

    def beat(self, index: int) -> None:
        """Record that a task starts a round."""
        self.last_rounds[index] = time.monotonic()

    def hanging(self) -> str | None:
        """Return which tasks hang, or None. If the database or the broker is down, rounds end with an error."""
        now = time.monotonic()
        late = {
            task.__name__: seconds
            for index, task in enumerate(self._tasks)
            if (seconds := now - self.last_rounds.get(index, self._started)) > HANG_SECONDS
        }
        if not late:
            return None
        return "; ".join(
            f"{task} has not started a round for {seconds:.0f} seconds" for task, seconds in late.items()
        )

    def not_ready(self) -> str | None:
        """Return a sentence until all tasks have started, then None."""
        return None if len(self.last_rounds) == len(self._tasks) else "Not all tasks have started."


def run() -> None:
    """Run all tasks until SIGTERM or SIGINT.

    Each task has its own thread (`deliver_webhooks` has several), so that a hanging broker or bucket delays no
    other task. An error ends one round of one task, and nothing else.

    Raises:
        PortTakenError: if another program uses METRICS_PORT.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    tasks = [*TASKS, *(GAUGES if settings().metrics_port is not None else [])]
    _start_counters(tasks)
    heartbeats = TaskHeartbeats(tasks)
    metrics.serve(
        metrics.RECONCILER,
        alive=heartbeats.hanging,
        ready=lambda: "Stopping." if stop.is_set() else heartbeats.not_ready(),
    )
    log.info("reconciler ready")
    with ThreadPoolExecutor(len(tasks)) as pool:
        threads = [pool.submit(repeat, task, stop, partial(heartbeats.beat, n)) for n, task in enumerate(tasks)]
        done: set[Future[None]] = set()
        while not stop.is_set() and not done:
            # A signal that the system hands to another thread does not wake this one, which runs its handler.
            done, _ = wait(threads, timeout=1, return_when=FIRST_EXCEPTION)
        stop.set()
    for thread in done:
        thread.result()
    log.info("reconciler stopped")


def _start_counters(tasks: Iterable[Task]) -> None:
    """Set all counters to 0: Prometheus sees no increase if a counter first appears with its first event."""
    for task in tasks:
        metrics.record(metrics.TASK_FAILURES, 0, task=task.__name__)
    for status in DeliveryStatus:
        metrics.record(metrics.WEBHOOK_DELIVERIES, 0, status=status)


def repeat(task: Task, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
    """Run a task every RECONCILE_SECONDS until `stop` is set, and without pause while it has more to do.

    Args:
        task: the task.
        stop: ends the loop.
        beat: called before each round.
    """
    while not stop.is_set():
        beat()
        try:
            if task():
                continue
        except Exception as error:
            log.warning(
                "task failed",
                task=task.__name__,
                reason=str(error),
                cause=cause(error),
                exc_info=None if isinstance(error, EXPECTED_ERRORS) else error,
            )
            metrics.record(metrics.TASK_FAILURES, task=task.__name__)
        stop.wait(settings().reconcile_seconds)


_monitor = reclaim.LeaseMonitor()


def reclaim_expired() -> None:
    """Put chunks whose lease has expired back into the queue, and those that wait for nothing more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        expired = _monitor.observe(reclaim.current_leases(session), time.monotonic())
    reclaimed = reclaim.reclaim(expired)
    if reclaimed:
        log.info("leases expired", chunks=reclaimed)
        metrics.record(metrics.LEASES_EXPIRED, reclaimed)
    with transaction() as session:
        settled = lifecycle.settle_stuck(session)
    if settled:
        log.info("waiting chunks queued", chunks=settled)


def maintain_fairness() -> None:
    """Close gaps in the virtual times of tenants, and delete idle tenants and silent workers.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        fairness.close_gaps(session)
    with transaction() as session:
        fairness.delete_idle(session)
        workers.delete_silent(session)


def end_overdue() -> bool:
    """Fail walks that are past their deadline; returns whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        overdue = retention.end_overdue(session)
    if overdue:
        log.info("overdue walks failed", walks=overdue)
    return overdue == retention.AT_ONCE


def expire() -> bool:
    """Expire walks that finished more than RETENTION_DAYS ago; returns whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        return retention.expire(session) == retention.AT_ONCE


def delete_old_records() -> None:
    """Delete idempotency keys and charges of over a day, tombstones of over a year, and models without workers.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        idempotency.delete_expired(session)
        retention.delete_old_tombstones(session)
        catalog.delete_forgotten(session)
        budgets.delete_old(session)


def remove_walks() -> bool:
    """Remove the objects and rows of deleted and expired walks; returns whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is unavailable.
        google.auth.exceptions.GoogleAuthError: if the credentials are refused.
    """
    removed, more = retention.remove()
    if removed:
        log.info("walks removed", walks=removed)
    return more


def move_objects() -> bool:
    """Move the files of walks that were made private or hidden; returns whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is unavailable.
        google.auth.exceptions.GoogleAuthError: if the credentials are refused.
    """
    moved, more = relocation.move_waiting()
    if moved:
        log.info("files moved", walks=moved)
    return more


_orphans = OrphanScan()


def delete_orphans() -> None:
    """Delete the objects of the next page of the bucket that belong to no walk.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is unavailable.
        google.auth.exceptions.GoogleAuthError: if the credentials are refused.
    """
    deleted = _orphans.delete_next_page()
    if deleted:
        log.info("orphans deleted", objects=deleted)


def publish_missing() -> None:
    """Publish wake-up messages until there is one for each chunk that can be claimed, up to MAX_QUEUED_MESSAGES.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        ready = stats.count_ready(session)
    for (kind, model), count in ready.items():
        try:
            missing = min(count, settings().max_queued_messages) - celery_app.count_messages(kind, model)
        except celery_app.BROKER_ERRORS as error:
            log.warning("broker unreachable", kind=kind, reason=str(error))
            metrics.record(metrics.BROKER_FAILURES)
            return
        if missing > 0 and (sent := celery_app.publish(kind, missing, model)):
            log.info("messages published", kind=kind, model=model, messages=sent)


def deliver_webhooks() -> bool:
    """Send the next webhook that is due; returns whether there was one.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached; a webhook that was already sent is then sent again.
    """
    if settings().webhook_secret is None:
        return False
    with transaction() as session:
        message = deliveries.claim(session)
    if message is None:
        return False
    outcome = sender.send(message)
    with transaction() as session:
        status = deliveries.record(session, message, outcome)
    log.info("webhook sent", webhook=message.id, attempt=message.attempt, status=status, error=outcome.error)
    if status is not None:
        metrics.record(metrics.WEBHOOK_DELIVERIES, status=status)
    return True


def update_gauges() -> None:
    """Set the gauges of the queue; they have no values while PostgreSQL is down.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    try:
        with transaction() as session:
            found = stats.collect(session)
    except StoreUnavailableError:
        for gauge in (
            metrics.CHUNKS,
            metrics.OLDEST_DUE_CHUNK_SECONDS,
            metrics.WALKS,
            metrics.WALKS_LAST_HOUR,
            metrics.WORKERS,
        ):
            gauge.clear()
        raise
    for gauge in (metrics.CHUNKS, metrics.OLDEST_DUE_CHUNK_SECONDS, metrics.WORKERS):
        gauge.clear()  # of models that are no longer known
    for (kind, model, status), number in found.chunks.items():
        metrics.record(metrics.CHUNKS, number, kind=kind, model=model, status=status)
    for (kind, model), seconds in found.oldest_due_seconds.items():
        metrics.record(metrics.OLDEST_DUE_CHUNK_SECONDS, seconds, kind=kind, model=model)
    for (kind, model), number in found.workers.items():
        metrics.record(metrics.WORKERS, number, kind=kind, model=model)
    metrics.record(metrics.CLAIMS_PAUSED, found.paused)
    metrics.record(metrics.WALKS_TO_REMOVE, found.to_remove)
    for gauge, walks in ((metrics.WALKS, found.walks), (metrics.WALKS_LAST_HOUR, found.walks_last_hour)):
        for walk_status, number in walks.items():
            metrics.record(gauge, number, status=walk_status)


def update_message_gauges() -> None:
    """Set the gauges of the broker; they have no values while it is down.

    Raises:
        StoreUnavailableError: if PostgreSQL, which knows the models, cannot be reached.
    """
    try:
        with transaction() as session:
            models = stats.models(session)
    except StoreUnavailableError:
        metrics.MESSAGES.clear()
        raise
    try:
        waiting = {
            **{(ChunkKind.RENDER, model): celery_app.count_messages(ChunkKind.RENDER, model) for model in models},
            (ChunkKind.ASSEMBLE, fairness.NO_MODEL): celery_app.count_messages(ChunkKind.ASSEMBLE),
        }
    except celery_app.BROKER_ERRORS:
        metrics.MESSAGES.clear()
        metrics.record(metrics.BROKER_FAILURES)
        return
    metrics.MESSAGES.clear()  # of models that are no longer known
    for (kind, model), number in waiting.items():
        metrics.record(metrics.MESSAGES, number, kind=kind, model=model)


GAUGES: tuple[Task, ...] = (update_gauges, update_message_gauges)
"""Tasks that only set metrics."""

TASKS: tuple[Task, ...] = (
    reclaim_expired,
    publish_missing,
    end_overdue,
    expire,
    delete_old_records,
    remove_walks,
    move_objects,
    delete_orphans,
    maintain_fairness,
    *[deliver_webhooks] * SENDERS,
)
"""Each runs in its own thread."""
