"""Signed values that clients send back unchanged: cookies and cursors, under SECRET_KEYS."""

import hashlib
import secrets
from functools import cache
from typing import Any

from itsdangerous import BadSignature, Signer, URLSafeSerializer

from momalisa.settings import settings
from momalisa.telemetry.logging import logger

log = logger(__name__)

_OPTIONS: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


def sign(value: str, purpose: str) -> str:
    """Return a value with its signature after a dot, which is valid for this purpose only."""
    return _signer(purpose).sign(value).decode()


def verify(signed: str, purpose: str) -> str | None:
    """Return the value that was signed for a purpose with one of SECRET_KEYS, or None if it was not."""
    try:
        return _signer(purpose).unsign(signed).decode()
    except BadSignature:
        return None


def serializer(purpose: str) -> URLSafeSerializer:
    """Return a serializer of signed JSON for URLs; it raises `itsdangerous.BadData` for what we did not sign."""
    return URLSafeSerializer(_keys(), salt=purpose, signer_kwargs=_OPTIONS)


def _signer(purpose: str) -> Signer:
    return Signer(_keys(), salt=purpose, **_OPTIONS)


def _keys() -> list[str]:
    """Return the keys, oldest first: the last one signs."""
    return [key.get_secret_value() for key in reversed(settings().secret_keys)] or [_random_key()]


@cache
def _random_key() -> str:
    log.warning("SECRET_KEYS is not set: visitors lose their walks when this process ends")
    return secrets.token_urlsafe(32)
