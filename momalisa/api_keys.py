"""API keys: created by an operator, shown once, stored as a hash.

Each function works inside the transaction of its caller (`session.transaction`), who commits.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NoReturn
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from momalisa.db.models import ApiKey
from momalisa.errors import InvalidFieldError, InvalidKeyError, KeyNotFoundError

PREFIX = "momalisa_"
"""Identifies a key to people, and to scanners for leaked secrets."""

SECRET_BYTES = 32

CACHE_SIZE = 10_000
"""Key ids that a process caches; the id of a key never changes."""

_ids: dict[str, UUID] = {}
"""Cached ids, by the hash of the secret."""

_VALID = and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))
"""The condition that a key is valid now, by PostgreSQL's clock, which all processes share."""

_SHAPE = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


def create(session: Session, name: str, *, expires: datetime | timedelta | None = None) -> tuple[ApiKey, str]:
    """Create a key, and return it with its secret, which is not stored.

    Args:
        session: of the caller.
        name: whose it is, or what it is for.
        expires: the time at which it expires, or its lifetime; None for never.

    Raises:
        InvalidFieldError: if it would have expired already.
    """
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    now = session.execute(select(func.now())).scalar_one()
    expires_at = now + expires if isinstance(expires, timedelta) else expires
    if expires_at is not None and expires_at <= now:
        raise InvalidFieldError("expires", f"{expires_at:%Y-%m-%d %H:%M %Z} is not in the future")
    key = ApiKey(id=uuid4(), name=name, hash=_hash(secret), expires_at=expires_at)
    session.add(key)
    session.flush()
    return key, secret


def list_keys(session: Session) -> Sequence[ApiKey]:
    """Return all keys, including revoked and expired ones, oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()


def revoke(session: Session, key_id: UUID) -> ApiKey:
    """Revoke a key from the next request on. Its walks stay. Revoking it again changes nothing.

    Raises:
        KeyNotFoundError: if there is none with this id.
    """
    key = session.get(ApiKey, key_id)
    if key is None:
        raise KeyNotFoundError(f"There is no API key {key_id}.")
    if key.revoked_at is None:
        key.revoked_at = session.execute(select(func.now())).scalar_one()
    return key


def find(session: Session, secret: str) -> UUID:
    """Return the id of the key with this secret.

    It is looked up by its hash, so that the time that this takes reveals nothing about other secrets.

    Raises:
        InvalidKeyError: if it is unknown, revoked or expired; the error does not say which.
    """
    found = None
    if _SHAPE.fullmatch(secret):
        found = session.scalar(select(ApiKey.id).where(ApiKey.hash == _hash(secret), _VALID))
    if found is None:
        raise_invalid()
    if len(_ids) >= CACHE_SIZE:
        _ids.clear()
    _ids[_hash(secret)] = found
    return found


def cached_id(secret: str) -> UUID | None:
    """Return the id of a key that this process has found before, without a query.

    The key may no longer be valid (`is_valid`).
    """
    return _ids.get(_hash(secret))


def is_valid(key_id: UUID) -> ColumnElement[bool]:
    """Return the condition that a key exists and is valid, as a part of another query."""
    return exists().where(ApiKey.id == key_id, _VALID)


def valid(session: Session, key_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return the keys among `key_ids` that are valid."""
    return frozenset(session.scalars(select(ApiKey.id).where(ApiKey.id.in_(key_ids), _VALID)))


def raise_invalid() -> NoReturn:
    """Raise the error for an invalid key, which does not say why it is invalid."""
    raise InvalidKeyError("The API key is unknown, revoked or expired.")


def _hash(secret: str) -> str:
    # No salt and no slow hash: 256 random bits cannot be guessed.
    return hashlib.sha256(secret.encode()).hexdigest()
