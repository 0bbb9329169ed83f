"""Celery's loop that takes permits, which waits for a broker that answers with errors instead of ending."""

import time

from celery.worker import consumer
from redis.exceptions import ResponseError

from momalisa.telemetry.logging import logger
from worker.process.shutdown import stopping

log = logger(__name__)

PAUSE_SECONDS = 2.0
"""How long a broker is left alone that answered with an error: it becomes no better by being asked at once."""


class Consumer(consumer.Consumer):  # type: ignore[misc] # Celery has no types
    """Takes permits."""

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Note that there is no connection yet, and try again after a pause."""
        super().on_connection_error_before_connected(exc)
        _pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let a connection go that failed; where the broker answered by an error, make a pause."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResponseError):
            _pause(exc)


def _pause(error: Exception) -> None:
    log.warning("the broker answers with errors", reason=str(error), pause_seconds=PAUSE_SECONDS)
    ends = time.monotonic() + PAUSE_SECONDS
    while time.monotonic() < ends and not stopping():
        time.sleep(0.1)
