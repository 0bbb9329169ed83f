"""Detects a worker that fails where others succeed, and makes it back off.

It claims nothing for a while, and is not ready, with the reason. Then it tries one chunk, and backs off longer if
that fails too. Its processes share this state, because a new process on the same broken device is no better.
"""

import time
from typing import NamedTuple

from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.errors import StoreUnavailableError
from momalisa.queue import stats
from momalisa.telemetry.logging import logger
from worker.process.shared_memory import Shared

log = logger(__name__)

SUSPECT_FAILURES = 2
"""After this many failures in a row the worker checks whether others succeed."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 30.0, 600.0
"""The first pause; each following one is twice as long, up to the maximum."""

MAX_REASON_LENGTH = 500


class FailureRecord(NamedTuple):
    """The failures of a worker since its last success."""

    failures: int = 0
    since: float = 0.0
    """Time of the first failure, in monotonic seconds, which all processes of a machine share."""
    backoffs: int = 0
    """How often the worker backed off."""
    until: float = 0.0
    """End of the current pause, in monotonic seconds."""
    reason: str = ""
    """The last failure."""


class Health:
    """The failures of a worker, in memory that its processes share; created before the fork."""

    def __init__(self) -> None:
        self._record: Shared[list[float | str]] = Shared(list(FailureRecord()))

    def _get(self) -> FailureRecord:
        return FailureRecord(*self._record.get())  # type: ignore[arg-type] # JSON has no tuples of several types

    def record_success(self) -> None:
        """Record that a chunk was done here."""
        if (before := self._get()).failures:
            if before.backoffs:
                log.info("worker recovered")
            self._record.set(list(FailureRecord()))

    def record_failure(self, kind: ChunkKind, reason: str) -> None:
        """Record that a chunk failed here; if other workers succeeded in the meantime, this one backs off."""
        now, before = time.monotonic(), self._get()
        since = before.since if before.failures else now
        after = FailureRecord(before.failures + 1, since, before.backoffs, reason=reason[:MAX_REASON_LENGTH])
        if after.failures >= SUSPECT_FAILURES and (after.backoffs or _others_succeed(kind, now - since)):
            seconds = min(BACKOFF_SECONDS * 2**after.backoffs, MAX_BACKOFF_SECONDS)
            after = after._replace(backoffs=after.backoffs + 1, until=now + seconds)
            log.error("worker fails where others succeed, backing off", seconds=seconds, reason=reason)
        self._record.set(list(after))

    def backoff_seconds(self) -> float:
        """Return how long this worker must not claim anything; 0 if it may."""
        return max(0.0, self._get().until - time.monotonic())

    def failure(self) -> str | None:
        """Return why this worker claims nothing, or None if it does claim."""
        seconds = self.backoff_seconds()
        if not seconds:
            return None
        return f"The worker fails where others succeed, and retries in {seconds:.0f} seconds: {self._get().reason}"


def _others_succeed(kind: ChunkKind, seconds: float) -> bool:
    """Return whether others finished chunks of its model within the last `seconds`, in which it finished none."""
    try:
        with transaction() as session:
            return stats.done_within(session, kind, seconds)
    except StoreUnavailableError:
        return False
