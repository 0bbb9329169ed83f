"""Recording the outcome of a chunk in the database, which may be unavailable for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from momalisa.db.session import transaction
from momalisa.errors import LeaseLostError, StoreUnavailableError
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.telemetry.logging import logger
from worker.process.shutdown import Shutdown

log = logger(__name__)

T = TypeVar("T")

Record = Callable[[Session], Ready | None]
"""Records the result of a chunk; returns the chunks that can be claimed because of it."""

RETRY_SECONDS = 300
"""How long a write is retried while the database is unavailable."""

PAUSE_SECONDS = 1


def write(shutdown: Shutdown, write: Callable[[Session], T], checkpoint: Callable[[], None] = lambda: None) -> T:
    """Write in a transaction of its own, and retry while the database is unavailable.

    The lease token fences the write. So it can be repeated if its commit was not acknowledged: it finds the lease
    ended.

    Args:
        shutdown: there are no retries once shutdown is requested.
        write: called with the session.
        checkpoint: called before each retry; its exceptions end them.

    Raises:
        StoreUnavailableError: if the database is still unavailable after RETRY_SECONDS.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            with transaction() as session:
                return write(session)
        except StoreUnavailableError as error:
            if shutdown.requested() or time.monotonic() > deadline:
                raise
            log.warning("database unavailable, retrying", reason=str(error))
            time.sleep(PAUSE_SECONDS)
            checkpoint()


def give_up(shutdown: Shutdown, claim: Claim, report: Callable[[Session], None]) -> Ready | None:
    """Report that a chunk was not completed; return that it can be claimed again, or None if it is not ours."""

    def released(session: Session) -> Ready:
        report(session)
        return Ready(claim.kind, model=claim.model)

    return record_or_leave(shutdown, released)


def record_or_leave(shutdown: Shutdown, record: Record) -> Ready | None:
    """Record the outcome of a chunk; if it is not ours, or the database stays away, log that and return None."""
    try:
        return write(shutdown, record)
    except LeaseLostError:
        log.warning("chunk already claimed by another worker")
        return None
    except StoreUnavailableError as error:
        log.warning("chunk not released, the lease will expire", reason=str(error))
        return None
