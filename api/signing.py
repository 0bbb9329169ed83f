"""Signing of values that clients send back unchanged: cookies and cursors, with SECRET_KEYS."""

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
    """Return a value followed by a dot and its signature, which is valid for this purpose only."""
    return _signer(purpose).sign(value).decode()


def verify(signed: str, purpose: str) -> str | None:
    """Return the value if it was signed for this purpose with one of SECRET_KEYS, else None."""
    try:
        return _signer(purpose).unsign(signed).decode()
    except BadSignature:
        return None


def serializer(purpose: str) -> URLSafeSerializer:
    """Return a serializer of signed JSON for URLs; it raises `itsdangerous.BadData` for an invalid signature."""
    return URLSafeSerializer(_keys(), salt=purpose, signer_kwargs=_OPTIONS)


def _signer(purpose: str) -> Signer:
    return Signer(_keys(), salt=purpose, **_OPTIONS)


def _keys() -> list[str]:
    """Return the keys, oldest first: the last one signs."""
    return [key.get_secret_value() for key in reversed(settings().secret_keys)] or [_random_key()]


@cache
def _random_key() -> str:
    log.warning("SECRET_KEYS is not set: visitors lose access to their walks when this process ends")
    return secrets.token_urlsafe(32)
