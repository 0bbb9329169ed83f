"""Sending webhooks, signed according to Standard Webhooks, by connections to the public Internet only.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

import certifi
import httpcore
import httpx
from standardwebhooks import Webhook

from momalisa import __version__, retry_after
from momalisa.db import session
from momalisa.domain.states import DeliveryStatus
from momalisa.errors import AddressRefusedError, WebhooksOffError
from momalisa.settings import settings
from momalisa.webhooks import ssrf

MAX_URL = 2000
"""Characters."""

MAX_PORT = 65535


@dataclass(frozen=True)
class Message:
    """A webhook that one sender has leased (`deliveries.claim`)."""

    id: str
    """The same at every attempt, so that a receiver can drop duplicates."""
    token: UUID
    attempt: int
    """1 at the first attempt."""
    owner: str
    url: str
    body: str
    created_at: datetime
    deadline: float
    """When the request must have ended, in monotonic seconds."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attempt."""

    status: DeliveryStatus
    """PENDING if it is to be retried."""
    error: str | None = None
    """For operators; None if it was delivered."""
    retry_after: float = 0
    """Retry-After of the receiver, in seconds."""


def checked_url(value: str) -> str:
    """Return the URL of a webhook in its normal form.

    Raises:
        ValueError: if it is not allowed, or webhooks are off; the message says what is wrong.
    """
    if settings().webhook_secret is None:
        raise ValueError("this server sends no webhooks: it has no secret to sign them with")
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("must be a URL such as https://example.com/hook") from error
    if url.port is not None and not 1 <= url.port <= MAX_PORT:
        raise ValueError(f"must have a port from 1 to {MAX_PORT}, got {url.port}")
    try:
        public, loopback = ssrf.is_public(url.host), ssrf.is_loopback(url.host)
    except ValueError:  # a name: its addresses are checked when the webhook is sent
        public, loopback = bool(url.host), url.host == "localhost"
    loopback_allowed = loopback and settings().webhook_loopback
    if url.scheme != "https" and not (url.scheme == "http" and loopback_allowed):
        raise ValueError("must begin with https://")
    if not public and not loopback_allowed:
        raise ValueError("must have a host on the public Internet")
    if url.userinfo:
        raise ValueError("must not contain a user name or a password")
    return str(url)


def signing_secret(owner: str) -> str:
    """Return the secret that signs the webhooks of an owner; it is derived from WEBHOOK_SECRET, and not stored.

    Raises:
        WebhooksOffError: if WEBHOOK_SECRET is unset.
    """
    master = settings().webhook_secret
    if master is None:
        raise WebhooksOffError("This server sends no webhooks: WEBHOOK_SECRET is not set.")
    digest = hmac.digest(master.get_secret_value().encode(), f"webhooks:{owner}".encode(), hashlib.sha256)
    return f"whsec_{base64.b64encode(digest).decode()}"


def send(message: Message, resolve: ssrf.Resolve = ssrf.resolve) -> Outcome:
    """Post a message to its receiver.

    Only the status of the response counts: its body is not read, and redirects are not followed.
    """
    session.refuse_open_transaction()
    url = httpx.URL(message.url)
    now = datetime.now(UTC)
    headers: dict[bytes | str, bytes | str] = {
        "content-type": "application/json",
        "user-agent": f"MoMALisa/{__version__}",
        "webhook-id": message.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(signing_secret(message.owner)).sign(message.id, now, message.body),
    }
    network = ssrf.GuardedBackend(deadline=message.deadline, loopback=settings().webhook_loopback, resolve=resolve)
    trusted = ssl.create_default_context(cafile=settings().webhook_ca or certifi.where())
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    try:
        with (
            httpcore.ConnectionPool(ssl_context=trusted, network_backend=network) as pool,
            pool.stream("POST", target, headers=headers, content=message.body.encode()) as response,
        ):
            received = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            return _outcome(response.status, received.get(b"retry-after", ""))
    except AddressRefusedError as error:
        return Outcome(DeliveryStatus.GIVEN_UP, f"{type(error).__name__}: {error}")
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        return Outcome(DeliveryStatus.PENDING, f"{type(error).__name__}: {error}")


def _outcome(status: int, header: str) -> Outcome:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Outcome(DeliveryStatus.DELIVERED)
    error = f"the receiver answered {status}"
    if status == HTTPStatus.GONE:
        return Outcome(DeliveryStatus.GIVEN_UP, error)
    busy = status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    return Outcome(DeliveryStatus.PENDING, error, (retry_after.seconds(header) or 0.0) if busy else 0.0)
