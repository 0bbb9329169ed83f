"""The lease of a claimed chunk: kept by heartbeats, and given up if the process hangs."""

import contextvars
import os
import signal
import threading
import time
from types import TracebackType
from typing import Never, Self

from momalisa.db.session import transaction
from momalisa.errors import LeaseLostError, StoreUnavailableError
from momalisa.queue import leases
from momalisa.queue.leases import Claim
from momalisa.settings import settings
from momalisa.telemetry.logging import logger
from worker.cancellation import CancellationToken
from worker.process.crash import HUNG
from worker.process.monitor import State
from worker.process.shutdown import STOP_SECONDS, ShutdownRequested
from worker.process.worker import Worker

log = logger(__name__)

REPORT_SECONDS = 5
"""Time that a hung process has to report its chunk before the kernel ends it."""


class Lease(CancellationToken):
    """A claimed chunk, kept by the watchdog's heartbeats during a `with` block."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self.claim = claim
        self._worker = worker
        self._ended = threading.Event()
        self._progress_at = time.monotonic()
        self._lost = threading.Event()
        self._context = contextvars.copy_context()
        self._released = threading.Event()

    def checkpoint(self) -> None:
        """Record progress, and raise if the work was cancelled (`raise_if_cancelled`). Cheap: call it often."""
        self._progress_at = time.monotonic()
        self.raise_if_cancelled()

    def raise_if_cancelled(self) -> None:
        """Raise if the work was cancelled.

        Raises:
            ShutdownRequested: if this worker was asked to stop.
            LeaseLostError: if the chunk was no longer ours at the last heartbeat, or the block has ended.
        """
        if self._worker.shutdown.requested():
            raise ShutdownRequested
        if self._lost.is_set() or self._ended.is_set():
            raise LeaseLostError(f"The lease of chunk {self.claim.number} of walk {self.claim.walk_id} is lost.")

    def verify(self) -> None:
        """Check in the database that the chunk is still ours, and extend the lease.

        Raises:
            LeaseLostError: if it is not.
            StoreUnavailableError: if the database cannot be reached.
        """
        with transaction() as session:
            leases.heartbeat(session, self.claim)

    def __enter__(self) -> Self:
        self._worker.watchdog.watch(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._released.wait()
        self._worker.monitor.report(State.READY)

    def _keep(self) -> None:
        """Keep the lease until the `with` block ends; runs in the watchdog's thread."""
        self._context.run(self._beat)
        self._released.set()

    def _beat(self) -> None:
        """Send heartbeats, and end the process if the work hangs, since no exception would reach it."""
        last_beat, stop_requested = time.monotonic(), None
        interval = settings().lease_seconds / 3
        self._worker.monitor.report(State.WORKING)
        while not self._ended.wait(min(interval, 1.0)):
            now = time.monotonic()
            self._worker.monitor.report(State.WORKING)
            if self._worker.shutdown.requested():
                stop_requested = stop_requested or now
            if now - self._progress_at > settings().stall_seconds or now - (stop_requested or now) > STOP_SECONDS:
                self._end_process(seconds=now - self._progress_at)
            if now - last_beat < interval:
                continue
            last_beat = now
            try:
                self.verify()
            except LeaseLostError:
                self._lost.set()
            except StoreUnavailableError as error:
                log.warning("heartbeat failed", reason=str(error))

    def _end_process(self, seconds: float) -> Never:
        """Report the attempt as failed, if possible, and end the process; if this hangs too, the kernel ends it."""
        signal.alarm(REPORT_SECONDS)
        try:
            log.critical("work hangs, ending this process", seconds=round(seconds))
            with transaction() as session:
                leases.attempt_failed(session, self.claim, HUNG)
            if not self._worker.shutdown.requested():
                self._worker.health.record_failure(self.claim.kind, HUNG)
        finally:
            os._exit(1)
