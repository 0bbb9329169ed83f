"""The reconciler: takes lost work back, tops permits up, delivers webhooks, and clears away what is past."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import FrameType

import requests
from google.api_core.exceptions import GoogleAPIError

from momalisa import chunks, idempotency, queue, retention, webhooks
from momalisa.database import transaction
from momalisa.errors import StoreUnavailableError
from momalisa.log import logger
from momalisa.settings import settings

log = logger(__name__)

SENDERS = 8
"""Webhooks that are on their way at once, so that slow receivers hold up nobody but each other."""


def run() -> None:
    """Reconcile until SIGTERM or SIGINT.

    Each duty has a thread of its own, so that a broker or a bucket that hangs keeps no other from being done; to
    deliver webhooks is the duty of several.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log.info("reconciler ready")
    duties = (take_back, top_up, clear_away, *[deliver] * SENDERS)
    with ThreadPoolExecutor(len(duties)) as pool:
        threads = [pool.submit(_every_round, duty, stop) for duty in duties]
        done, _ = wait(threads, return_when=FIRST_EXCEPTION)
        stop.set()  # an error that nobody foresaw ends the process, and whoever looks after it starts it again
    for thread in done:
        thread.result()
    log.info("reconciler stopped")


def _every_round(duty: Callable[[], bool | None], stop: threading.Event) -> None:
    """Do a duty once a round, and again at once where it returns that there may be more to do."""
    while not stop.is_set():
        try:
            if duty():
                continue
        except (StoreUnavailableError, GoogleAPIError, requests.RequestException) as error:
            log.warning("round skipped", duty=duty.__name__, reason=str(error))
        stop.wait(settings().reconcile_seconds)


def take_back() -> None:
    """Put chunks back into the queue whose lease ran out.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        taken = chunks.take_back(session)
    if taken:
        log.info("chunks taken back", chunks=taken)


def clear_away() -> None:
    """End what is past its deadline or its retention, and remove what deleted and expired walks left behind.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is out of order.
    """
    with transaction() as session:
        overdue = retention.end_overdue(session)
        retention.expire(session)
        idempotency.forget_old(session)
    removed = retention.remove_objects()
    if overdue or removed:
        log.info("walks cleared away", overdue=overdue, removed=removed)


def top_up() -> None:
    """See to it that there is a permit for each chunk that is due, as far as the queue has room.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        due = chunks.due(session)
    for kind, count in due.items():
        try:
            missing = min(count, settings().max_permits) - queue.waiting(kind)
        except queue.BROKER_ERRORS as error:
            log.warning("broker not reached", kind=kind, reason=str(error))
            return
        if missing > 0:
            queue.publish(kind, missing)
            log.info("permits topped up", kind=kind, permits=missing)


def deliver() -> bool:
    """Send the webhook that has been due the longest, and return whether there was one.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached. What was sent by then is sent again later.
    """
    if settings().webhook_secret is None:
        return False
    with transaction() as session:
        message = webhooks.claim(session)
    if message is None:
        return False
    outcome = webhooks.send(message)
    with transaction() as session:
        status = webhooks.record(session, message, outcome)
    log.info("webhook sent", message=message.id, attempt=message.attempt, status=status, error=outcome.error)
    return True
