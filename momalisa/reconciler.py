"""The reconciler: takes lost work back and keeps the broker supplied with permits, round after round."""

import signal
import threading
from types import FrameType

from momalisa import chunks, queue
from momalisa.database import transaction
from momalisa.errors import StoreUnavailableError
from momalisa.log import logger
from momalisa.settings import settings

log = logger(__name__)


def run() -> None:
    """Reconcile until SIGTERM or SIGINT."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log.info("reconciler ready")
    while not stop.is_set():
        try:
            reconcile()
        except StoreUnavailableError as error:
            log.warning("round skipped", reason=str(error))
        stop.wait(settings().reconcile_seconds)
    log.info("reconciler stopped")


def reconcile() -> None:
    """Do one round: take back chunks whose lease ran out, then top up the permits of the broker.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        due = chunks.reconcile(session)
    for kind, count in (due or {}).items():
        try:
            missing = min(count, settings().max_permits) - queue.waiting(kind)
        except queue.BROKER_ERRORS as error:
            log.warning("broker not reached", kind=kind, reason=str(error))
            continue
        if missing > 0:
            queue.publish(kind, missing)
            log.info("permits topped up", kind=kind, permits=missing)
