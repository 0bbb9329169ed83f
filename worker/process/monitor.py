"""Metrics and health of a worker, served on METRICS_PORT by its parent process.

Celery forks the child that does the work, and sometimes replaces it; the parent lives as long as the worker. So the
parent serves them, and the child sends it what to record.
"""

import os
import threading
import time
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
from worker.process.health import Health
from worker.process.message_pipe import MessagePipe
from worker.process.shutdown import Shutdown
from worker.process.startup import Startup

TICK_SECONDS = 5
"""Interval of the heartbeat of the consumer of wake-up messages."""

SUSPICIOUS_SECONDS, STUCK_SECONDS = 30, 180
"""A consumer that is silent for the first time has its broker checked; for the second, it is stuck."""


class State(StrEnum):
    """What the child is doing."""

    STARTING = "starting"  # loading its model
    READY = "ready"  # waiting for a wake-up message
    WORKING = "working"  # holding a chunk; reported again with every heartbeat


@dataclass
class Status:
    """What the parent knows about its child and its consumer; times are monotonic seconds."""

    pid: int = 0
    state: State = State.STARTING
    reported_at: float = 0.0
    consumer_ran_at: float | None = None
    """When the consumer last ran, or the broker was found to be down; None before it starts."""


class Monitor:
    """Collects the state of a worker; created before the fork, because the child inherits its pipe."""

    def __init__(self, shutdown: Shutdown, startup: Startup, health: Health) -> None:
        self.status = Status()
        self._shutdown, self._startup, self._health = shutdown, startup, health
        self._server: Server | None = None
        self._pipe: MessagePipe | None = None

    def serve(self, kind: ChunkKind) -> None:
        """Serve METRICS_PORT in this process, on behalf of the children that it will fork.

        Args:
            kind: of the chunks that they work on.

        Raises:
            PortTakenError: if another program listens on METRICS_PORT.
        """
        self._server = metrics.serve(
            metrics.WORKER, alive=lambda: self.liveness_failure(kind), ready=self.readiness_failure
        )
        metrics.WORKER_READY.set_function(lambda: self.readiness_failure() is None)
        if self._server is not None:
            self._pipe = MessagePipe()
            threading.Thread(target=self._receive, args=(self._pipe,), name="monitor", daemon=True).start()

    def attach_child(self) -> None:
        """Make this process, which was just forked, send its metrics and state to the parent."""
        if self._server is None or self._pipe is None:
            return
        self._server.socket.close()  # the parent's; an open copy here would keep a new parent from listening
        pipe = self._pipe
        metrics.forward(lambda metric, value, labels: pipe.send(metric=metric, value=value, labels=labels))
        self.report(State.STARTING)

    def report(self, state: State) -> None:
        """Send the state of this process to the parent. Cheap: call it often."""
        if self._pipe is not None:
            self._pipe.send(state=state, pid=os.getpid())

    def consumer_ran(self) -> None:
        """Record that the consumer of wake-up messages is running."""
        self.status.consumer_ran_at = time.monotonic()

    def readiness_failure(self) -> str | None:
        """Return why this worker could not start a chunk right now, or None if it could."""
        if self._shutdown.requested():
            return "The worker is stopping."
        if failure := self._startup.failure() or self._health.failure():
            return failure
        if not _is_alive(self.status.pid):
            return "No child process is running."
        if self.status.state == State.STARTING:
            return "The model is being loaded."
        return None

    def liveness_failure(self, kind: ChunkKind) -> str | None:
        """Return why this worker is stuck, or None if it is not. An unavailable broker does not count."""
        now, status = time.monotonic(), self.status
        silent = now - status.reported_at
        if status.state == State.WORKING and silent > settings().stall_seconds and _is_alive(status.pid):
            return f"The child process has reported nothing for {silent:.0f} seconds."
        if status.consumer_ran_at is None or now - status.consumer_ran_at < SUSPICIOUS_SECONDS:
            return None
        try:
            celery_app.count_messages(kind)
        except celery_app.BROKER_ERRORS:
            status.consumer_ran_at = now
        idle = now - status.consumer_ran_at
        if idle > STUCK_SECONDS:
            return f"The consumer has not run for {idle:.0f} seconds, although the broker answers."
        return None

    def _receive(self, pipe: MessagePipe) -> None:
        for message in pipe.receive():
            self._apply(message)

    def _apply(self, message: dict[str, Any]) -> None:
        match message:
            case {"state": state, "pid": pid}:
                self.status.pid, self.status.state = pid, State(state)
                self.status.reported_at = time.monotonic()
            case {"metric": metric, "value": value, "labels": labels}:
                metrics.apply(metric, value, labels)


def _is_alive(pid: int) -> bool:
    """Return whether a child process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return pid != 0


def consumer_heartbeat(monitor: Monitor) -> type[bootsteps.StartStopStep]:
    """Return a step of Celery's consumer that sends the monitor a heartbeat every few seconds."""

    class ConsumerHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
        requires = ("celery.worker.consumer.tasks:Tasks",)
        _timer: Any = None

        def start(self, parent: Consumer) -> None:  # called again after each reconnection to the broker
            self.stop(parent)
            monitor.consumer_ran()
            self._timer = parent.timer.call_repeatedly(TICK_SECONDS, monitor.consumer_ran)

        def stop(self, parent: Consumer) -> None:  # noqa: ARG002 - Celery's signature
            if self._timer is not None:
                self._timer.cancel()

    return ConsumerHeartbeat
