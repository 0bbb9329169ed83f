"""Metrics and health of a worker, served on METRICS_PORT by its parent process.

Celery forks the child that works, and replaces it now and then; the parent lives as long as the worker. So the
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
"""Interval at which the consumer of wake-up messages shows that it runs."""

SUSPICIOUS_SECONDS, STUCK_SECONDS = 30, 180
"""After the first, a silent consumer has the broker checked; after the second, with a broker, it is stuck."""


class State(StrEnum):
    """What the child that works is doing."""

    STARTING = "starting"  # it loads its model
    READY = "ready"  # it waits for a wake-up message
    WORKING = "working"  # it holds a chunk, and reports this again with every heartbeat


@dataclass
class Status:
    """What the parent knows of its child and of its consumer; times are monotonic seconds."""

    pid: int = 0
    state: State = State.STARTING
    reported_at: float = 0.0
    consumer_ran_at: float | None = None
    """When the consumer last ran, or had no broker to run for; None before it starts."""


class Monitor:
    """Collects the state of a worker; created before the fork, because the child sends through its pipe."""

    def __init__(self, shutdown: Shutdown, startup: Startup, health: Health) -> None:
        self.status = Status()
        self._shutdown, self._startup, self._health = shutdown, startup, health
        self._server: Server | None = None
        self._pipe: MessagePipe | None = None

    def serve(self, kind: ChunkKind) -> None:
        """Serve METRICS_PORT in this process, for the children that it will fork.

        Args:
            kind: of the chunks that they work on.

        Raises:
            PortTakenError: if another program listens on METRICS_PORT.
        """
        self._server = metrics.serve(
            metrics.WORKER, alive=lambda: self.liveness_failure(kind), ready=self.readiness_failure
        )
        if self._server is not None:
            self._pipe = MessagePipe()
            threading.Thread(target=self._receive, args=(self._pipe,), name="monitor", daemon=True).start()

    def attach_child(self) -> None:
        """Have this process, just forked, send its metrics and its state to the parent."""
        if self._server is None or self._pipe is None:
            return
        self._server.socket.close()  # the parent's; kept open here, it would keep a successor from listening
        pipe = self._pipe
        metrics.forward(lambda metric, value, labels: pipe.send(metric=metric, value=value, labels=labels))
        self.report(State.STARTING)

    def report(self, state: State) -> None:
        """Send the state of this process to the parent. Cheap: call it often."""
        if self._pipe is not None:
            self._pipe.send(state=state, pid=os.getpid())

    def consumer_ran(self) -> None:
        """Note that the consumer of wake-up messages runs."""
        self.status.consumer_ran_at = time.monotonic()

    def readiness_failure(self) -> str | None:
        """Return why this worker could not start a chunk right now, or None if it could."""
        if self._shutdown.requested():
            return "It is stopping."
        if failure := self._startup.failure() or self._health.failure():
            return failure
        if not _is_alive(self.status.pid):
            return "There is no process that works."
        if self.status.state == State.STARTING:
            return "Its model is being loaded."
        return None

    def liveness_failure(self, kind: ChunkKind) -> str | None:
        """Return why this worker is stuck, or None if it is not. A broker that is away is no reason."""
        now, status = time.monotonic(), self.status
        silent = now - status.reported_at
        if status.state == State.WORKING and silent > settings().stall_seconds and _is_alive(status.pid):
            return f"The process that works has reported nothing for {silent:.0f} seconds."
        if status.consumer_ran_at is None or now - status.consumer_ran_at < SUSPICIOUS_SECONDS:
            return None
        try:
            celery_app.count_messages(kind)
        except celery_app.BROKER_ERRORS:
            status.consumer_ran_at = now
        idle = now - status.consumer_ran_at
        if idle > STUCK_SECONDS:
            return f"No wake-up message was looked for in {idle:.0f} seconds, although the broker answers."
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
    """Return whether a child exists that was not yet found dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return pid != 0


def consumer_heartbeat(monitor: Monitor) -> type[bootsteps.StartStopStep]:
    """Return a step of Celery's consumer that shows the monitor, every few seconds, that the consumer runs."""

    class ConsumerHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
        requires = ("celery.worker.consumer.tasks:Tasks",)
        _timer: Any = None

        def start(self, parent: Consumer) -> None:  # again with every connection to the broker
            self.stop(parent)
            monitor.consumer_ran()
            self._timer = parent.timer.call_repeatedly(TICK_SECONDS, monitor.consumer_ran)

        def stop(self, parent: Consumer) -> None:  # noqa: ARG002 - Celery's signature
            if self._timer is not None:
                self._timer.cancel()

    return ConsumerHeartbeat
