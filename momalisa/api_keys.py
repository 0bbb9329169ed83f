"""API keys: made by an operator, shown once, kept as a hash.

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
"""Lets people, and scanners of leaked secrets, recognise a key."""

SECRET_BYTES = 32

REMEMBERED = 10_000
"""Keys of which a process knows the ids by heart; an id never changes."""

_found: dict[str, UUID] = {}
"""Ids by hash."""

_VALID = and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))
"""A key holds, by the clock of PostgreSQL, which all processes share."""

_SHAPE = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


def create(session: Session, name: str, *, expires: datetime | timedelta | None = None) -> tuple[ApiKey, str]:
    """Make a key and return it with its secret, which cannot be had again.

    Args:
        session: as for all functions here.
        name: whose it is, or what it is for.
        expires: when it stops to hold, or after what time; None for never.

    Raises:
        InvalidFieldError: if that is in the past.
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


def listed(session: Session) -> Sequence[ApiKey]:
    """Return all keys, also those that were revoked or have expired, oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()


def revoke(session: Session, key_id: UUID) -> ApiKey:
    """Make a key worthless from the next request on; again changes nothing. What it made stays.

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

    It is looked up by its hash, so that the time this takes tells nothing about the secrets of others.

    Raises:
        InvalidKeyError: if there is none, or it was revoked or has expired; the error does not say which.
    """
    found = None
    if _SHAPE.fullmatch(secret):
        found = session.scalar(select(ApiKey.id).where(ApiKey.hash == _hash(secret), _VALID))
    if found is None:
        refuse()
    if len(_found) >= REMEMBERED:
        _found.clear()
    _found[_hash(secret)] = found
    return found


def recall(secret: str) -> UUID | None:
    """Return the id of a key that this process has found before, without a look at the database.

    Whether it still holds is for `holds` to say.
    """
    return _found.get(_hash(secret))


def holds(key_id: UUID) -> ColumnElement[bool]:
    """Return the condition that a key is there and holds, for a query that has other work to do."""
    return exists().where(ApiKey.id == key_id, _VALID)


def holding(session: Session, key_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return those of some keys that hold."""
    return frozenset(session.scalars(select(ApiKey.id).where(ApiKey.id.in_(key_ids), _VALID)))


def refuse() -> NoReturn:
    """Raise the answer to a key that does not hold; it does not say why."""
    raise InvalidKeyError("This API key is not known here, or it was revoked or has expired.")


def _hash(secret: str) -> str:
    # No salt and no slow hash: 256 random bits cannot be guessed.
    return hashlib.sha256(secret.encode()).hexdigest()
