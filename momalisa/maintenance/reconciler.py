"""The reconciler: takes lost work back, tops permits up, delivers webhooks, and clears away what is past."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from types import FrameType

import requests
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from momalisa.db.session import transaction
from momalisa.domain.states import DeliveryStatus
from momalisa.errors import StoreUnavailableError
from momalisa.maintenance import retention
from momalisa.maintenance.orphans import Sweep
from momalisa.queue import celery_app, fairness, reclaim, stats, workers
from momalisa.settings import settings
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import cause, logger
from momalisa.walks import idempotency, relocation
from momalisa.webhooks import deliveries

log = logger(__name__)

SENDERS = 8
"""Webhooks that are on their way at once, so that slow receivers hold up only each other."""

STUCK_SECONDS = 600
"""A round that takes longer will not end: what it waits for would have timed out long before."""


OUT_OF_ORDER = (StoreUnavailableError, GoogleAPIError, GoogleAuthError, requests.RequestException)
"""What a duty raises while PostgreSQL or the bucket cannot be reached, or refuses us."""

Duty = Callable[[], bool | None]
"""Does something once, and returns whether there may be more of it to do at once."""


class Rounds:
    """When each thread began its last round, in monotonic seconds."""

    def __init__(self, duties: Sequence[Duty]) -> None:
        self._duties = duties
        self._started = time.monotonic()
        self._begun: dict[int, float] = {}

    def begin(self, thread: int) -> None:
        """Note that a thread begins a round."""
        self._begun[thread] = time.monotonic()

    def stuck(self) -> str | None:
        """Return which duties hang, or None. PostgreSQL or a broker that is down only ends a round."""
        now = time.monotonic()
        late = {
            duty.__name__: seconds
            for thread, duty in enumerate(self._duties)
            if (seconds := now - self._begun.get(thread, self._started)) > STUCK_SECONDS
        }
        if not late:
            return None
        return "; ".join(f"No round of {duty} began for {seconds:.0f} seconds" for duty, seconds in late.items())

    def not_ready(self) -> str | None:
        """Return that not every duty has begun, if so."""
        return None if len(self._begun) == len(self._duties) else "Its rounds have not begun."


def run() -> None:
    """Reconcile until SIGTERM or SIGINT.

    Each duty has a thread of its own, so that a broker or a bucket that hangs keeps no other from being done, and
    whatever one of them raises ends one round of this duty and nothing else; to deliver webhooks is the duty of
    several.

    Raises:
        PortTakenError: if METRICS_PORT is another program's.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    duties = [*DUTIES, *([count] if settings().metrics_port is not None else [])]
    _begin_to_count(duties)
    rounds = Rounds(duties)
    metrics.serve(
        metrics.RECONCILER,
        alive=rounds.stuck,
        ready=lambda: "It is stopping." if stop.is_set() else rounds.not_ready(),
    )
    log.info("reconciler ready")
    with ThreadPoolExecutor(len(duties)) as pool:
        threads = [pool.submit(_every_round, duty, stop, partial(rounds.begin, n)) for n, duty in enumerate(duties)]
        done, _ = wait(threads, return_when=FIRST_EXCEPTION)
        stop.set()
    for thread in done:
        thread.result()
    log.info("reconciler stopped")


def _begin_to_count(duties: Iterable[Duty]) -> None:
    """Have every counter begin at 0: Prometheus sees no increase in one that comes with its first event."""
    for duty in duties:
        metrics.record(metrics.ROUNDS_SKIPPED, 0, duty=duty.__name__)
    for status in DeliveryStatus:
        metrics.record(metrics.WEBHOOK_DELIVERIES, 0, status=status)


def _every_round(duty: Duty, stop: threading.Event, begin: Callable[[], None]) -> None:
    """Do a duty once a round, and again at once where it returns that there may be more to do."""
    while not stop.is_set():
        begin()
        try:
            if duty():
                continue
        except Exception as error:  # a duty that fails must not keep the others from being done
            foreseen = isinstance(error, OUT_OF_ORDER)
            log.warning(
                "round skipped",
                duty=duty.__name__,
                reason=str(error),
                cause=cause(error),
                exc_info=None if foreseen else error,
            )
            metrics.record(metrics.ROUNDS_SKIPPED, duty=duty.__name__)
        stop.wait(settings().reconcile_seconds)


_monitor = reclaim.LeaseMonitor()


def take_back() -> None:
    """Put chunks back into the queue whose lease ran out while this process looked on.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        expired = _monitor.observe(reclaim.current_leases(session), time.monotonic())
        reclaimed = reclaim.reclaim(session, expired)
    if reclaimed:
        log.info("leases expired", chunks=reclaimed)
        metrics.record(metrics.LEASES_EXPIRED, reclaimed)


def keep_order() -> None:
    """See to it that turns follow each other without gaps, and forget tenants and workers that no longer matter.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        fairness.close_gaps(session)
    with transaction() as session:
        fairness.delete_idle(session)
        workers.delete_silent(session)


def end_overdue() -> bool:
    """Fail walks that are past their deadline, and return whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        overdue = retention.end_overdue(session)
    if overdue:
        log.info("overdue walks ended", walks=overdue)
    return overdue == retention.AT_ONCE


def expire() -> bool:
    """Expire walks that were finished longer ago than they are kept, and return whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        return retention.expire(session) == retention.AT_ONCE


def forget() -> None:
    """Forget idempotency keys that are too old to be used again, and walks that expired long ago.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        idempotency.forget_old(session)
        retention.forget(session)


def remove_walks() -> bool:
    """Remove deleted and expired walks with what they left in the bucket, and return whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is out of order.
        google.auth.exceptions.GoogleAuthError: if Google does not know us (any more).
    """
    removed, more = retention.remove()
    if removed:
        log.info("walks removed", walks=removed)
    return more


def move_objects() -> bool:
    """Move the files of walks that are no longer shown to everyone, and return whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is out of order.
        google.auth.exceptions.GoogleAuthError: if Google does not know us (any more).
    """
    moved, more = relocation.move_waiting()
    if moved:
        log.info("objects of walks moved", walks=moved)
    return more


_sweep = Sweep()


def sweep() -> None:
    """Take a page of the bucket's objects out of it that belong to no walk.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is out of order.
        google.auth.exceptions.GoogleAuthError: if Google does not know us (any more).
    """
    removed = _sweep.go_on()
    if removed:
        log.info("orphans removed", objects=removed)


def top_up() -> None:
    """See to it that there is a permit for each chunk that is due, as far as the queue has room.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        due = stats.count_ready(session)
    for kind, count in due.items():
        try:
            missing = min(count, settings().max_queued_messages) - celery_app.count_messages(kind)
        except celery_app.BROKER_ERRORS as error:
            log.warning("broker not reached", kind=kind, reason=str(error))
            metrics.record(metrics.BROKER_FAILURES)
            return
        if missing > 0 and (sent := celery_app.publish(kind, missing)):
            log.info("permits topped up", kind=kind, permits=sent)


def deliver() -> bool:
    """Send the webhook that has been due the longest, and return whether there was one.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached. What was sent by then is sent again later.
    """
    if settings().webhook_secret is None:
        return False
    with transaction() as session:
        message = deliveries.claim(session)
    if message is None:
        return False
    outcome = deliveries.send(message)
    with transaction() as session:
        status = deliveries.record(session, message, outcome)
    log.info("webhook sent", message=message.id, attempt=message.attempt, status=status, error=outcome.error)
    if status is not None:
        metrics.record(metrics.WEBHOOK_DELIVERIES, status=status)
    return True


def count() -> None:
    """Show how much there is of what; nothing at all while it is not known.

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
        ):
            gauge.clear()
        raise
    for (kind, status), number in found.chunks.items():
        metrics.record(metrics.CHUNKS, number, kind=kind, status=status)
    for kind, seconds in found.oldest_due_seconds.items():
        metrics.record(metrics.OLDEST_DUE_CHUNK_SECONDS, seconds, kind=kind)
    metrics.record(metrics.CLAIMS_PAUSED, found.paused)
    for gauge, walks in ((metrics.WALKS, found.walks), (metrics.WALKS_LAST_HOUR, found.walks_last_hour)):
        for where, number in walks.items():
            metrics.record(gauge, number, status=where)


DUTIES: tuple[Duty, ...] = (
    *(take_back, top_up, end_overdue, expire, forget, remove_walks, move_objects, sweep),
    keep_order,
    *[deliver] * SENDERS,
)
"""What is done all the time. Each is done by a thread of its own, and what one raises stops no other."""
