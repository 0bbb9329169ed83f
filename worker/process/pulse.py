"""What the process that works tells the one that answers for it, and what that one makes of it.

Celery forks the child that works, and replaces it now and then; the parent lives as long as the worker. So the
parent serves METRICS_PORT, and the child tells it through a pipe what to count and how it is. A line shorter than
PIPE_BUF is written whole or not at all, whenever the child dies; and a pipe leaves no files behind
(`docs/decisions/0014-monitoring.md`).
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer

from momalisa.domain.states import ChunkKind
from momalisa.queue import celery_app
from momalisa.settings import settings
from momalisa.telemetry import metrics
from momalisa.telemetry.metrics import Server
from worker.process import health, startup

TICK_SECONDS = 5
"""How often the loop that takes permits from the broker shows that it turns."""

SUSPICIOUS_SECONDS, STUCK_SECONDS = 30, 180
"""When that loop has not turned for so long, the broker is looked at; and when the broker is there, it is stuck."""


class State(StrEnum):
    """How the process that works says it is."""

    STARTING = "starting"  # its model is not loaded yet
    READY = "ready"  # it waits for a permit
    WORKING = "working"  # it holds a chunk, and says so again with every heartbeat


@dataclass
class _Seen:
    """What the parent knows: of its child by what that said last, and of the loop that takes permits."""

    pid: int = 0
    state: State = State.STARTING
    heard: float = 0.0
    """When, in monotonic seconds."""
    turned: float | None = None
    """When the loop last turned, or had no broker to turn for; None before its first turn."""


_seen = _Seen()
_server: Server | None = None
_pipe: tuple[int, int] | None = None


def serve_health(kind: ChunkKind, stopping: Callable[[], bool]) -> None:
    """Serve METRICS_PORT in this process, for the children that it will fork.

    Args:
        kind: of the chunks that they work on.
        stopping: whether this worker was told to stop.

    Raises:
        PortTakenError: if METRICS_PORT is another program's.
    """
    global _server, _pipe  # noqa: PLW0603 - once in the life of a process, before it forks
    _server = metrics.serve(metrics.WORKER, alive=lambda: _stuck(kind), ready=lambda: _not_ready(stopping))
    if _server is not None:
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)  # to lose a figure is better than to wait for who reads it
        threading.Thread(target=_listen, args=(_pipe[0],), name="pulse", daemon=True).start()


def attach() -> None:
    """Say that this process, just forked, is the one that works from now on."""
    if _server is None:
        return
    _server.socket.close()  # it is the parent's; held open here, it would keep a successor from listening
    metrics.forward(_write)
    report(State.STARTING)


def report(state: State) -> None:
    """Say how this process is. Cheap: call it often."""
    if _pipe is not None:
        _write(state, os.getpid())


def _write(*words: object) -> None:
    assert _pipe
    with contextlib.suppress(BlockingIOError):
        os.write(_pipe[1], json.dumps(words).encode() + b"\n")


def _listen(pipe: int) -> None:
    """Take down what the children tell, as long as this process lives."""
    with os.fdopen(pipe) as lines:
        for line in lines:
            what, *about = json.loads(line)
            if isinstance(what, str):
                _seen.pid, _seen.state, _seen.heard = about[0], State(what), time.monotonic()
            else:
                metrics.apply(what, *about)


def _not_ready(stopping: Callable[[], bool]) -> str | None:
    """Return why this worker could not begin with a chunk right now, or None if it could."""
    if stopping():
        return "It is stopping."
    if trouble := startup.failure() or health.trouble():
        return trouble
    if not _lives(_seen.pid):
        return "There is no process that works."
    if _seen.state == State.STARTING:
        return "Its model is being loaded."
    return None


def _stuck(kind: ChunkKind) -> str | None:
    """Return why this worker will not go on by itself, or None if it will. No broker is no reason."""
    now = time.monotonic()
    silent = now - _seen.heard
    if _seen.state == State.WORKING and silent > settings().stall_seconds and _lives(_seen.pid):
        return f"The process that works says nothing for {silent:.0f} seconds."
    if _seen.turned is None or now - _seen.turned < SUSPICIOUS_SECONDS:
        return None
    try:
        celery_app.count_messages(kind)
    except celery_app.BROKER_ERRORS:
        _seen.turned = now
    if now - _seen.turned > STUCK_SECONDS:
        return f"No permit was looked for in {now - _seen.turned:.0f} seconds, although the broker is there."
    return None


def _lives(pid: int) -> bool:
    """Tell whether a child is there that was not yet found dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return pid != 0


class ConsumerHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
    """Shows that the loop turns that takes permits: begun anew with every connection to the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _timer: Any = None

    def start(self, parent: Consumer) -> None:
        """Have the loop show itself from now on."""
        self.stop(parent)
        _turn()
        self._timer = parent.timer.call_repeatedly(TICK_SECONDS, _turn)

    def stop(self, parent: Consumer) -> None:  # noqa: ARG002 - as Celery calls it
        """Leave off, until there is a connection again."""
        if self._timer is not None:
            self._timer.cancel()


def _turn() -> None:
    _seen.turned = time.monotonic()
