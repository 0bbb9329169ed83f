"""The reconciler: takes lost work back, and keeps the broker supplied with permits, round after round."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import FrameType

from momalisa import chunks, queue
from momalisa.database import transaction
from momalisa.errors import StoreUnavailableError
from momalisa.log import logger
from momalisa.settings import settings

log = logger(__name__)


def run() -> None:
    """Reconcile until SIGTERM or SIGINT.

    Both duties have a thread of their own, so that a broker that hangs keeps nobody from taking lost work back.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log.info("reconciler ready")
    with ThreadPoolExecutor() as pool:
        duties = [pool.submit(_every_round, duty, stop) for duty in (take_back, top_up)]
        done, _ = wait(duties, return_when=FIRST_EXCEPTION)
        stop.set()  # an error that nobody foresaw ends the process, and whoever looks after it starts it again
    for duty in done:
        duty.result()
    log.info("reconciler stopped")


def _every_round(duty: Callable[[], None], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            duty()
        except StoreUnavailableError as error:
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
