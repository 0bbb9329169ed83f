"""Deliveries of webhooks in the database: what a sender does, step by step."""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from standardwebhooks import Webhook

from momalisa.db.models import WebhookDelivery
from momalisa.db.session import transaction
from momalisa.domain.states import DeliveryStatus
from momalisa.webhooks import deliveries, sender, ssrf
from momalisa.webhooks.sender import Message
from tests import receiver


def claim() -> Message | None:
    with transaction() as session:
        return deliveries.claim(session)


def attempt(resolve: ssrf.Resolve) -> DeliveryStatus | None:
    """Claim the delivery that is due, send it, and record the outcome."""
    message = claim()
    assert message is not None
    outcome = sender.send(message, resolve)
    with transaction() as session:
        return deliveries.record(session, message, outcome)


def recorded() -> list[WebhookDelivery]:
    with transaction() as session:
        return list(session.scalars(select(WebhookDelivery)))


def delivery() -> WebhookDelivery:
    (only,) = recorded()
    return only


def make_due(**changes: Any) -> None:
    """Make a delivery due, or the lease of its sender expire."""
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(scheduled_at=func.now() - timedelta(seconds=1), **changes))


def verify(got: receiver.Delivery, secret: str | None = None) -> dict[str, Any]:
    """Verify a signature as a receiver does, with the owner's secret, and return the message."""
    message: dict[str, Any] = Webhook(secret or sender.signing_secret("ann")).verify(got.body, got.headers)
    return message
