"""Whether this worker does its work where others do: one that fails where they succeed takes itself out.

It claims nothing for a while, is not ready and says why; then it tries one chunk, and rests longer if that fails,
too. What it knows is kept in memory that its processes share: a fresh process on the same sick device is no better.
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

SICK = 2
"""After as many failures in a row it is looked whether others succeed."""

REST_SECONDS, LONGEST_REST_SECONDS = 30.0, 600.0
"""The first rest; each one that follows is twice as long, up to the longest."""


class State(NamedTuple):
    """How a worker fares."""

    failures: int = 0
    """In a row."""
    since: float = 0.0
    """When the first of them was, in monotonic seconds, which all processes of a machine share."""
    rests: int = 0
    until: float = 0.0
    """When the rest ends, in monotonic seconds."""
    reason: str = ""


_state: Shared[list[float | str]] = Shared(list(State()))


def _now() -> State:
    return State(*_state.get())  # type: ignore[arg-type] # JSON knows no tuples of several types


def succeeded() -> None:
    """Note that a chunk was done here."""
    if _now().failures:
        if _now().rests:
            log.info("this worker is well again")
        _state.set(list(State()))


def failed(kind: ChunkKind, reason: str) -> None:
    """Note that a chunk failed here; when others did theirs meanwhile, this worker rests."""
    now, before = time.monotonic(), _now()
    state = State(before.failures + 1, before.since if before.failures else now, before.rests, reason=reason[:500])
    if state.failures >= SICK and (state.rests or _others_succeed(kind, now - state.since)):
        seconds = min(REST_SECONDS * 2**state.rests, LONGEST_REST_SECONDS)
        state = state._replace(rests=state.rests + 1, until=now + seconds)
        log.error("this worker fails where others succeed, so it rests", seconds=seconds, reason=reason)
    _state.set(list(state))


def rest_seconds() -> float:
    """Return how long this worker must claim nothing from now on."""
    return max(0.0, _now().until - time.monotonic())


def trouble() -> str | None:
    """Return why this worker claims nothing, or None if it does."""
    seconds = rest_seconds()
    if not seconds:
        return None
    return f"It fails where other workers succeed, and tries again in {seconds:.0f} seconds: {_now().reason}"


def _others_succeed(kind: ChunkKind, seconds: float) -> bool:
    """Tell whether chunks were done within so many seconds, in which this worker has done none."""
    try:
        with transaction() as session:
            return stats.done_within(session, kind, seconds)
    except StoreUnavailableError:
        return False
