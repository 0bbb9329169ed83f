"""Crashes: if a process dies while it works on a chunk, its successor reports at once how it died.

A process that is killed, or crashes in native code, cannot report anything itself. Its parent sees how it ended and
forks a new one, which finds the chunk in shared memory. If the parent dies as well, with its machine or container,
the crash cannot be reported, and the lease expires.
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
from worker.process.health import Health
from worker.process.shared_memory import Shared

log = logger(__name__)

HUNG = "its worker hung"
"""The error of an attempt that made no progress."""


class CrashReporter:
    """What a child works on and how it ended, in memory shared with its successor; created before the fork."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._attempt: Shared[list[str] | None] = Shared(None)
        self._exit: Shared[str] = Shared("")

    @contextmanager
    def tracking(self, attempt: Attempt) -> Iterator[None]:
        """Have the successor report this attempt if this process dies during the block."""
        self._exit.set("")
        numbers = (str(attempt.number), str(attempt.attempt))
        self._attempt.set([str(attempt.walk_id), str(attempt.token), attempt.kind, attempt.parent, *numbers])
        yield
        self._attempt.set(None)  # not if the block ends the process

    def record_exit(self, code: int) -> None:
        """Record how a working child ended; called in the parent."""
        self._exit.set(describe_exit(code))

    def report(self) -> None:
        """Report the attempt during which the previous process died, if any; it counts as this worker's failure."""
        tracked, reason = self._attempt.get(), self._exit.get() or "its process died"
        if tracked is None:
            return
        self._attempt.set(None)
        walk, token, kind, parent, number, attempt = tracked
        died = Attempt(
            walk_id=UUID(walk),
            number=int(number),
            kind=ChunkKind(kind),
            token=UUID(token),
            attempt=int(attempt),
            parent=parent,
        )
        try:
            with transaction() as session:
                leases.attempt_failed(session, died, reason, lost=True)
            metrics.record(metrics.LEASES_EXPIRED)
        except LeaseLostError:  # already reported, or the walk has ended
            return
        except StoreUnavailableError as error:
            log.warning("crash not reported, the lease will expire", reason=str(error))
        log.error("previous process died", walk=walk, chunk=died.number, kind=kind, reason=reason)
        self._health.record_failure(died.kind, reason)


def describe_exit(code: int) -> str:
    """Describe how a process ended: with an exit code, or if negative, by a signal."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    if -code == signal.SIGALRM:  # set before a hung process is ended
        return HUNG
    if -code == signal.SIGKILL:
        return "its process was killed (SIGKILL), most often because memory ran out"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"its process was ended by signal {-code}"


def pool_class(crashes: CrashReporter) -> type[prefork.TaskPool]:
    """Return a worker's process pool as a class that holds the reporter, because Celery instantiates it."""

    class AsynPool(asynpool.AsynPool):  # type: ignore[misc] # Celery has no types
        def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
            crashes.record_exit(exitcode)
            super().on_job_process_lost(job, pid, exitcode)

    class TaskPool(prefork.TaskPool):  # type: ignore[misc]
        Pool = AsynPool

    return TaskPool
