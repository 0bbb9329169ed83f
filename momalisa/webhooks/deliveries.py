"""Webhooks: who asked for it is told that a walk has ended, signed as Standard Webhooks say.

A delivery is a row that is written in the transaction that ends the walk. It is sent at least once: under a lease,
so that nobody else sends it meanwhile, and again with the same message id until the receiver takes it or a day is
over.
The functions that take a session work inside the transaction of their caller, who commits.
Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from uuid import UUID, uuid4

import certifi
import httpcore
import httpx
from sqlalchemy import ColumnElement, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from momalisa import __version__
from momalisa.db import session
from momalisa.db.models import Chunk, Walk, WebhookDelivery
from momalisa.domain.states import DeliveryStatus, WalkStatus, WebhookEvent
from momalisa.errors import AddressRefusedError, WebhooksOffError
from momalisa.settings import settings
from momalisa.webhooks import ssrf

MAX_URL = 2000
"""Characters."""

MAX_PORT = 65535

LEASE_SECONDS = 60
"""How long a delivery is in the hands of whoever claimed it; more than an exchange may take."""

GIVE_UP_AFTER = timedelta(days=1)
"""A delivery that could not be made for this long is never made."""

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 7200.0

AT_ONCE = 2
"""Deliveries of one tenant, or to one host, that may be on their way at once, however many wait."""


@dataclass(frozen=True)
class Message:
    """A delivery in the hands of one sender."""

    id: str
    """The same at every attempt, so that a receiver can tell a message that it has had before."""
    token: UUID
    attempt: int
    """1 at the first attempt."""
    owner: str
    url: str
    body: str
    created_at: datetime
    deadline: float
    """When the exchange must be over, in monotonic seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt."""

    status: DeliveryStatus
    """PENDING if it is to be tried again."""
    error: str | None = None
    """For operators; None if it was delivered."""
    wait_seconds: float = 0
    """How long its receiver wants to be left alone."""


def checked_url(value: str) -> str:
    """Return a webhook's URL in its normal form.

    Raises:
        ValueError: if nothing may be sent there, or could be signed; its message says what is wrong.
    """
    if settings().webhook_secret is None:
        raise ValueError("this server sends no webhooks: it has no secret to sign them with")
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("must be a URL such as https://example.com/hook") from error
    if url.port is not None and not 1 <= url.port <= MAX_PORT:
        raise ValueError(f"must have a port of 1 to {MAX_PORT}, got {url.port}")
    try:
        public, loopback = ssrf.is_public(url.host), ssrf.is_loopback(url.host)
    except ValueError:  # a name: what it leads to is seen when it is called
        public, loopback = bool(url.host), url.host == "localhost"
    loopback_allowed = loopback and settings().webhook_loopback
    if url.scheme != "https" and not (url.scheme == "http" and loopback_allowed):
        raise ValueError("must begin with https://")
    if not public and not loopback_allowed:
        raise ValueError("must lead to a host on the public Internet")
    if url.userinfo:
        raise ValueError("must not contain a user name or a password")
    return str(url)


def announce(session: Session, walk_id: UUID, status: WalkStatus) -> None:
    """Have it told that a walk has ended with a status, if it has and somebody asked to be told."""
    session.execute(
        insert(WebhookDelivery).from_select(
            ["id", "walk_id", "event", "url", "host", "tenant", "wait_seconds"],
            select(
                literal(f"msg_{uuid4().hex}"),
                Walk.id,
                literal(WebhookEvent(f"walk.{status}"), WebhookDelivery.event.type),
                Walk.webhook_url,
                func.substring(Walk.webhook_url, r"://(\[[^]]*\]|[^/?#:]*)"),
                select(Chunk.tenant).where(Chunk.walk_id == walk_id, Chunk.number == 0).scalar_subquery(),
                literal(float(LEASE_SECONDS)),
            ).where(Walk.id == walk_id, Walk.status == status, Walk.webhook_url.is_not(None)),
        )
    )


def claim(session: Session) -> Message | None:
    """Lease the delivery whose turn it is, or return None if there is none.

    It is the one that has been due the longest, of a tenant that has none on its way and to a host that has none;
    then of those that have. So receivers that hang hold up only the tenant that named them, and their own host.
    """
    deadline = time.monotonic() + settings().webhook_timeout_seconds
    session.execute(
        select(func.pg_advisory_xact_lock(_ONE_CLAIMS))
    )  # so that no two take the last place of a tenant
    # In two steps: within one statement PostgreSQL may run the query, with its locks, more than once.
    delivery_id = _next(session)
    if delivery_id is None:
        return None
    delivery = session.scalars(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id)
        .values(
            lease_token=uuid4(),
            attempts=WebhookDelivery.attempts + 1,
            scheduled_at=func.now() + timedelta(seconds=LEASE_SECONDS),
            wait_seconds=float(LEASE_SECONDS),
        )
        .returning(WebhookDelivery)
    ).one()
    assert delivery.lease_token
    walk = session.get_one(Walk, delivery.walk_id)
    return Message(
        id=delivery.id,
        owner=walk.owner,
        token=delivery.lease_token,
        attempt=delivery.attempts,
        url=delivery.url,
        body=_body(delivery, walk),
        created_at=delivery.created_at,
        deadline=deadline,
    )


_ONE_CLAIMS = 0x776562686F6F6B73
"""Names the lock under which deliveries are claimed."""


def _is_due() -> ColumnElement[bool]:
    """Return the condition that a delivery may be sent now, even if PostgreSQL's clock was set back."""
    longest_wait = func.make_interval(0, 0, 0, 0, 0, 0, WebhookDelivery.wait_seconds)
    now = func.statement_timestamp()  # not that of the transaction, which may have waited for another claim
    return or_(WebhookDelivery.scheduled_at <= now, WebhookDelivery.scheduled_at > now + longest_wait)


def _next(session: Session) -> str | None:
    """Return the id of the delivery whose turn it is, and lock it."""
    under_way = session.execute(
        select(WebhookDelivery.tenant, WebhookDelivery.host).where(
            WebhookDelivery.lease_token.is_not(None), ~_is_due()
        )
    ).all()
    tenants, hosts = Counter(row[0] for row in under_way), Counter(row[1] for row in under_way)
    for most in range(1, AT_ONCE + 1):
        due = (
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.status == DeliveryStatus.PENDING,
                _is_due(),
                WebhookDelivery.tenant.not_in([each for each, number in tenants.items() if number >= most]),
                WebhookDelivery.host.not_in([each for each, number in hosts.items() if number >= most]),
            )
            .order_by(WebhookDelivery.scheduled_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        found = session.scalars(due).one_or_none()
        if found is not None or not under_way:
            return found
    return None


def _body(delivery: WebhookDelivery, walk: Walk) -> str:
    """Return what is sent: the same at every attempt, because a walk that has ended changes no more."""
    base_url = (settings().public_url or "").rstrip("/")
    failed = delivery.event == WebhookEvent.FAILED
    return json.dumps(
        {
            "type": delivery.event,
            "timestamp": delivery.created_at.astimezone(UTC).isoformat(),
            "data": {
                "id": str(walk.id),
                "status": delivery.event.removeprefix("walk."),
                "prompts": walk.spec.prompts,
                "error": {"code": walk.error_code, "message": walk.error_message} if failed else None,
                "urls": {"self": f"{base_url}/v1/walks/{walk.id}", "web": f"{base_url}/walks/{walk.id}"},
            },
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def send(message: Message, resolve: ssrf.Resolve = ssrf.resolve) -> Outcome:
    """Post a message to its receiver, and tell what came of it.

    Only the status of the answer counts: its body is not read, and a redirect is not followed.
    """
    session.refuse_open_transaction()
    url = httpx.URL(message.url)
    now = datetime.now(UTC)
    headers: dict[bytes | str, bytes | str] = {
        "content-type": "application/json",
        "user-agent": f"MoMALisa/{__version__}",
        "webhook-id": message.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret(message.owner)).sign(message.id, now, message.body),
    }
    network = ssrf.GuardedBackend(deadline=message.deadline, loopback=settings().webhook_loopback, resolve=resolve)
    trusted = ssl.create_default_context(cafile=settings().webhook_ca or certifi.where())
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    try:
        with (
            httpcore.ConnectionPool(ssl_context=trusted, network_backend=network) as pool,
            pool.stream("POST", target, headers=headers, content=message.body.encode()) as answer,
        ):
            headers_told = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
            return _judge(answer.status, headers_told.get(b"retry-after", ""))
    except AddressRefusedError as error:
        return Outcome(DeliveryStatus.GIVEN_UP, f"{type(error).__name__}: {error}")
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        return Outcome(DeliveryStatus.PENDING, f"{type(error).__name__}: {error}")


def secret(owner: str) -> str:
    """Return what the webhooks of an owner are signed with, so that only the owner can verify or forge them.

    It is made from WEBHOOK_SECRET and not kept, so there is nothing to store and nothing to lose.

    Raises:
        WebhooksOffError: if this server sends none.
    """
    master = settings().webhook_secret
    if master is None:
        raise WebhooksOffError("This server sends no webhooks.")
    digest = hmac.digest(master.get_secret_value().encode(), f"webhooks:{owner}".encode(), hashlib.sha256)
    return f"whsec_{base64.b64encode(digest).decode()}"


def _judge(status: int, retry_after: str) -> Outcome:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Outcome(DeliveryStatus.DELIVERED)
    error = f"it answered {status}"
    if status == HTTPStatus.GONE:
        return Outcome(DeliveryStatus.GIVEN_UP, error)
    asks_for_time = status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    wait = (ssrf.wait_asked_for(retry_after) or 0.0) if asks_for_time else 0.0
    return Outcome(DeliveryStatus.PENDING, error, min(wait, LONGEST_BACKOFF_SECONDS))


def record(session: Session, message: Message, outcome: Outcome) -> DeliveryStatus | None:
    """Record what came of an attempt, and return where the delivery stands now: to be tried again, or over.

    Returns None, and changes nothing, if the delivery is no longer ours.
    """
    wait = max(backoff_seconds(message.attempt), outcome.wait_seconds)
    scheduled_at = session.scalars(select(func.now())).one() + timedelta(seconds=wait)
    status = outcome.status
    if status == DeliveryStatus.PENDING and scheduled_at > message.created_at + GIVE_UP_AFTER:
        status = DeliveryStatus.GIVEN_UP
    return session.scalars(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == message.id,
            WebhookDelivery.lease_token == message.token,
            WebhookDelivery.status == DeliveryStatus.PENDING,
        )
        .values(
            status=status,
            lease_token=None,
            scheduled_at=scheduled_at,
            wait_seconds=wait,
            error=outcome.error,
            finished_at=None if status == DeliveryStatus.PENDING else func.now(),
        )
        .returning(WebhookDelivery.status)
    ).one_or_none()


def backoff_seconds(attempt: int) -> float:
    """Return the time until a message is sent again after its n-th attempt failed.

    5, 10, 20 … seconds up to two hours, each up to a quarter more or less by chance, so that messages that failed
    together do not come together again.
    """
    seconds = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 30), LONGEST_BACKOFF_SECONDS)
    return seconds * secrets.SystemRandom().uniform(0.75, 1.25)
