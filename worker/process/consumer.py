"""Celery's consumer of wake-up messages, which survives a broker that answers with errors."""

from celery.worker import consumer
from redis.exceptions import ResponseError

from momalisa.telemetry.logging import logger
from worker.process.shutdown import Shutdown

log = logger(__name__)

PAUSE_SECONDS = 2.0
"""Pause before the next request after the broker answered with an error."""


def consumer_class(shutdown: Shutdown) -> type[consumer.Consumer]:
    """Return a worker's consumer as a class that holds the flag, because Celery instantiates it."""

    class Consumer(consumer.Consumer):  # type: ignore[misc] # Celery has no types
        def on_connection_error_before_connected(self, exc: Exception) -> None:
            super().on_connection_error_before_connected(exc)
            pause(exc)

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            super().on_connection_error_after_connected(exc)
            if isinstance(exc, ResponseError):
                pause(exc)

    def pause(error: Exception) -> None:
        log.warning("broker error, retrying", reason=str(error), pause_seconds=PAUSE_SECONDS)
        shutdown.wait(PAUSE_SECONDS)

    return Consumer
