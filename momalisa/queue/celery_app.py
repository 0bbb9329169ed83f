"""The Celery app and its permits: a message says "there is work of this kind" and names none.

The worker that takes a permit claims the best chunk that PostgreSQL has (`chunks.claim`). So the order of work is
one SQL query, a message too many does no harm, and a message too few is topped up by the reconciler.
"""

from functools import cache

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

PATIENCE = {"socket_connect_timeout": 2, "socket_timeout": 2}
"""How long the broker, or a Sentinel, may take to answer; seconds."""

BROKER_ERRORS = (KombuError, RedisError, OSError)
"""What may be raised when the broker is down, restarts or hangs."""


@cache
def app() -> Celery:
    """Return the Celery app of this process."""
    address = broker.read(settings().broker_url)
    celery = Celery("momalisa", broker=address.celery_url(), set_as_current=True)
    if address.tls:
        celery.conf.broker_use_ssl = address.certificates(settings().broker_ca)
    celery.conf.update(
        task_queues=[Queue(kind.value) for kind in ChunkKind],
        task_routes={task_name(kind): {"queue": kind.value} for kind in ChunkKind},
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        # A worker takes a permit when it has nothing to do. To count permits that are not acknowledged instead
        # would stop it for good once an acknowledgement fails, since kombu then takes that one for still held.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=0,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=3600,  # a child loads, and may compile, its model before it reports for work
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # a worker outlives a broker that answers READONLY or OOM
        broker_transport_options={
            **PATIENCE,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "max_retries": 0,
            "visibility_timeout": 3600,  # of a permit only: chunks have leases of their own
            "global_keyprefix": settings().queue_prefix,
            "master_name": address.master,
            "sentinel_kwargs": {**PATIENCE, "retry": Retry(NoBackoff(), 0)},  # the next Sentinel is a better try
        },
    )
    return celery


def task_name(kind: ChunkKind) -> str:
    """Return the name of the Celery task that works on chunks of this kind."""
    return f"momalisa.{kind.value}"


def publish(kind: ChunkKind, permits: int = 1) -> int:
    """Send `permits` permits, as far as the queue has room for them (`max_permits`), and return how many were sent.

    When the broker is down, it logs that and leaves them to the reconciler.
    """
    session.refuse_open_transaction()
    sent = 0
    try:
        with app().connection_for_write() as connection, connection.Producer() as producer:
            room = settings().max_permits - _waiting(kind, connection)
            for _ in range(min(permits, room)):
                app().send_task(task_name(kind), producer=producer)
                sent += 1
    except BROKER_ERRORS as error:
        log.warning("permits not sent", kind=kind, permits=permits - sent, reason=str(error))
        metrics.record(metrics.BROKER_FAILURES)
    return sent


def count_messages(kind: ChunkKind) -> int:
    """Return the number of permits that wait in the broker; raises one of BROKER_ERRORS if it is down."""
    session.refuse_open_transaction()
    with app().connection_for_read() as connection:
        return _waiting(kind, connection)


def _waiting(kind: ChunkKind, connection: Connection) -> int:
    queue = app().amqp.queues[kind.value](connection.default_channel)
    return int(queue.queue_declare().message_count)  # declared anew: a broker that came back empty forgot it
