"""The end of a process in the middle of a chunk: the next one reports at once how it ended.

A process that is killed, or crashes in native code, reports nothing itself. Its parent learns how it ended and
forks another one, which finds in memory that they share what it held. If the parent goes as well, with its machine
or container, there is no one left who knows, and the lease runs out.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from celery.concurrency import asynpool, prefork

from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.errors import LeaseLostError, StoreUnavailableError
from momalisa.queue import leases
from momalisa.queue.leases import Attempt
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import logger
from worker.process import health
from worker.process.shared_memory import Shared

log = logger(__name__)

HUNG = "its worker hung"

_held: Shared[list[str] | None] = Shared(None)
"""The attempt at which the process that works is, if it is at one."""

_end: Shared[str] = Shared("")
"""How it ended, in words."""


@contextmanager
def holding(claim: Attempt) -> Iterator[None]:
    """Have this chunk reported if the process dies in the block."""
    _end.set("")
    numbers = (str(claim.number), str(claim.attempt))
    _held.set([str(claim.walk_id), str(claim.token), claim.kind, claim.workplace, *numbers])
    try:
        yield
    finally:
        _held.set(None)


def report() -> None:
    """Report the attempt at which the process before this one died, if it did; that tells against this worker."""
    held, reason = _held.get(), _end.get() or "its process died"
    if held is None:
        return
    _held.set(None)
    walk, token, kind, workplace, number, attempt = held
    died = Attempt(
        walk_id=UUID(walk),
        number=int(number),
        kind=ChunkKind(kind),
        token=UUID(token),
        attempt=int(attempt),
        workplace=workplace,
    )
    log.error("the process before this one died", walk=walk, chunk=died.number, kind=kind, reason=reason)
    try:
        with transaction() as session:
            leases.attempt_failed(session, died, reason, lost=True)
        metrics.record(metrics.LEASES_EXPIRED)
    except LeaseLostError:  # reported before, or its walk is over
        return
    except StoreUnavailableError as error:
        log.warning("not reported; the lease will run out", reason=str(error))
    health.failed(died.kind, reason)


def in_words(code: int) -> str:
    """Return how a process ended: with an exit code, or by a signal, whose number is negative then."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    if -code == signal.SIGALRM:  # `Lease` has it sent when not even that could be reported
        return HUNG
    if -code == signal.SIGKILL:
        return "its process was killed (SIGKILL), most often because memory ran out"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"its process was ended by signal {-code}"


class _Pool(asynpool.AsynPool):  # type: ignore[misc] # Celery has no types
    def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
        super().on_job_process_lost(job, pid, exitcode)
        _end.set(in_words(exitcode))


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's pool of processes, whose parent notes how one ended that was at work."""

    Pool = _Pool
