"""What we hand out and want back unchanged: values with a proof that they are from us."""

import base64
import hashlib
import hmac
import secrets
from functools import cache

from momalisa.settings import settings
from momalisa.telemetry.logging import logger

log = logger(__name__)


def signed(value: str, purpose: str) -> str:
    """Return a value with its signature, separated by a dot; it holds for this purpose only."""
    return f"{value}.{_signature(value, purpose)}"


def verified(given: str, purpose: str) -> str | None:
    """Return the value that was signed for a purpose, or None if it is not from us."""
    value, _, signature = given.rpartition(".")
    genuine = hmac.compare_digest(signature.encode(), _signature(value, purpose).encode())
    return value if value and genuine else None


def _signature(value: str, purpose: str) -> str:
    digest = hmac.digest(_secret().encode(), f"{purpose}:{value}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _secret() -> str:
    secret = settings().secret_key
    return secret.get_secret_value() if secret else _passing_secret()


@cache
def _passing_secret() -> str:
    log.warning("SECRET_KEY is not set: visitors lose their walks when this process ends")
    return secrets.token_urlsafe(32)
