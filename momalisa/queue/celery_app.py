"""The Celery app and its wake-up messages: a message says "there is work of this kind and model", and no more.

It names no chunk. Render workers of each model have a queue of their own, so that no message is lost on one that
cannot do the work.

The worker that receives one claims the next chunk from PostgreSQL (`leases.claim`). So the order of work is one SQL
query, a surplus message does no harm, and the reconciler publishes those that are missing.
"""

from functools import cache
from urllib.parse import quote

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import KombuError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from momalisa import broker
from momalisa.db import session
from momalisa.domain.states import ChunkKind
from momalisa.settings import settings
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import logger

log = logger(__name__)

TIMEOUTS = {"socket_connect_timeout": 2, "socket_timeout": 2}
"""Of the broker or a Sentinel, in seconds."""

BROKER_ERRORS = (KombuError, RedisError, OSError)
"""Errors raised while the broker is down, restarting or hanging."""


@cache
def app() -> Celery:
    """Return the Celery app of this process."""
    address = broker.parse(settings().broker_url)
    celery = Celery("momalisa", broker=address.celery_url(), set_as_current=True)
    if address.tls:
        celery.conf.broker_use_ssl = address.certificates(settings().broker_ca)
    celery.conf.update(
        task_queues=[Queue(queue_name(kind)) for kind in ChunkKind],
        task_routes={task_name(kind): {"queue": queue_name(kind)} for kind in ChunkKind},
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        # An idle worker fetches the next message. A limit on unacknowledged messages would stop the worker for good
        # once an acknowledgement fails, since kombu keeps counting that message.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=0,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=3600,  # a child may load and compile its model first
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # a worker survives a broker that answers READONLY or OOM
        broker_transport_options={
            **TIMEOUTS,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "max_retries": 0,
            "visibility_timeout": 3600,  # of the message only: chunks have leases
            "global_keyprefix": settings().queue_prefix,
            "master_name": address.master,
            "sentinel_kwargs": {**TIMEOUTS, "retry": Retry(NoBackoff(), 0)},  # try the next Sentinel instead
        },
    )
    return celery


def task_name(kind: ChunkKind) -> str:
    """Return the name of the Celery task that works on chunks of this kind."""
    return f"momalisa.{kind.value}"


def queue_name(kind: ChunkKind, model: str | None = None) -> str:
    """Return the name of the queue for chunks of a kind and a model; None means the model of the settings."""
    if kind != ChunkKind.RENDER:
        return str(kind)
    return f"{kind}:{quote(model or settings().model_name, safe='')}"


def publish(kind: ChunkKind, messages: int = 1, model: str | None = None) -> int:
    """Publish wake-up messages, up to MAX_QUEUED_MESSAGES in the queue, and return how many were published.

    Those for render chunks wake workers of a model; None means the model of the settings.

    If the broker is down, that is logged, and the reconciler publishes them later.
    """
    session.refuse_open_transaction()
    sent = 0
    try:
        with app().connection_for_write() as connection, connection.Producer() as producer:
            queue = Queue(queue_name(kind, model))
            room = settings().max_queued_messages - _queued(queue, connection)
            for _ in range(min(messages, room)):
                app().send_task(task_name(kind), producer=producer, queue=queue)
                sent += 1
    except BROKER_ERRORS as error:
        log.warning("messages not published", kind=kind, messages=messages - sent, reason=str(error))
        metrics.record(metrics.BROKER_FAILURES)
    return sent


def count_messages(kind: ChunkKind, model: str | None = None) -> int:
    """Return the number of messages in the queue of a kind, and of a model if it is `render`.

    Raises:
        BROKER_ERRORS: one of them, if the broker is down.
    """
    session.refuse_open_transaction()
    with app().connection_for_read() as connection:
        return _queued(Queue(queue_name(kind, model)), connection)


def _queued(queue: Queue, connection: Connection) -> int:
    found = queue(connection.default_channel).queue_declare()  # a broker that restarted empty has no queue
    return int(found.message_count)
