"""Deliveries of webhooks: rows that are written in the transaction that ends a walk, and leased to senders.

A webhook is sent at least once: it is retried with the same message id until the receiver accepts it, or for a day.
Each function works inside the transaction of its caller (`db.session.transaction`), who commits.
"""

import json
import secrets
import time
from collections import Counter
from datetime import UTC, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk, Walk, WebhookDelivery
from momalisa.domain.states import DeliveryStatus, WalkStatus, WebhookEvent
from momalisa.settings import settings
from momalisa.webhooks.sender import Message, Outcome

LEASE_SECONDS = 60
"""Lease of a delivery; longer than an exchange may take."""

GIVE_UP_AFTER = timedelta(days=1)
"""Age after which a delivery is not retried."""

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 5.0, 7200.0

MAX_CONCURRENT = 2
"""Concurrent deliveries of one tenant, or to one host."""


def enqueue(session: Session, walk_id: UUID, status: WalkStatus) -> None:
    """Add the delivery of a walk that has ended with this status, if it has a webhook URL."""
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
    """Lease the next delivery that is due, or return None if there is none.

    The oldest delivery whose tenant and host have none in progress comes first; then those with one in progress, up
    to MAX_CONCURRENT. So a hanging receiver delays only its host and its tenant.
    """
    deadline = time.monotonic() + settings().webhook_timeout_seconds
    session.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCK)))  # else two senders could exceed MAX_CONCURRENT
    # Two statements: within one, PostgreSQL may run the locking query more than once.
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


_CLAIM_LOCK = 0x776562686F6F6B73
"""Key of the advisory lock under which deliveries are claimed."""


def _is_due() -> ColumnElement[bool]:
    """Return the condition that a delivery may be sent now, even after PostgreSQL's clock was set back."""
    longest_wait = func.make_interval(0, 0, 0, 0, 0, 0, WebhookDelivery.wait_seconds)
    now = func.statement_timestamp()  # not the start of the transaction, which may have waited for the lock
    return or_(WebhookDelivery.scheduled_at <= now, WebhookDelivery.scheduled_at > now + longest_wait)


def _next(session: Session) -> str | None:
    """Lock the next delivery that is due, and return its id."""
    in_progress = session.execute(
        select(WebhookDelivery.tenant, WebhookDelivery.host).where(
            WebhookDelivery.lease_token.is_not(None), ~_is_due()
        )
    ).all()
    tenants, hosts = Counter(row[0] for row in in_progress), Counter(row[1] for row in in_progress)
    for limit in range(1, MAX_CONCURRENT + 1):
        due = (
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.status == DeliveryStatus.PENDING,
                _is_due(),
                WebhookDelivery.tenant.not_in([each for each, number in tenants.items() if number >= limit]),
                WebhookDelivery.host.not_in([each for each, number in hosts.items() if number >= limit]),
            )
            .order_by(WebhookDelivery.scheduled_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        found = session.scalars(due).one_or_none()
        if found is not None or not in_progress:
            return found
    return None


def _body(delivery: WebhookDelivery, walk: Walk) -> str:
    """Return the body: the same at every attempt, since an ended walk does not change."""
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


def record(session: Session, message: Message, outcome: Outcome) -> DeliveryStatus | None:
    """Record the outcome of an attempt, and return the new status of the delivery.

    Returns None, and changes nothing, if the lease is lost.
    """
    wait = max(backoff_seconds(message.attempt), min(outcome.retry_after, MAX_BACKOFF_SECONDS))
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
    """Return the backoff after the n-th failed attempt: 5, 10, 20 … seconds up to two hours, with 25 % jitter."""
    seconds = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 30), MAX_BACKOFF_SECONDS)
    return seconds * secrets.SystemRandom().uniform(0.75, 1.25)
