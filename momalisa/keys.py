"""API keys: made by an operator, shown once, kept as a hash.

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import NoReturn
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from momalisa.errors import KeyNotFoundError, UnauthorizedError
from momalisa.tables import ApiKey

PREFIX = "momalisa_"
"""Lets people, and scanners of leaked secrets, recognise a key."""

SECRET_BYTES = 32

REMEMBERED = 10_000
"""Keys of which a process knows the ids by heart; an id never changes."""

_found: dict[str, UUID] = {}
"""Ids by hash."""

_SHAPE = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


def create(session: Session, name: str) -> tuple[ApiKey, str]:
    """Make a key and return it with its secret, which cannot be had again."""
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(id=uuid4(), name=name, hash=_hash(secret))
    session.add(key)
    session.flush()
    return key, secret


def listed(session: Session) -> Sequence[ApiKey]:
    """Return all keys, also those that were revoked, oldest first."""
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
        UnauthorizedError: if there is none, or it was revoked; nobody is told which.
    """
    found = None
    if _SHAPE.fullmatch(secret):
        found = session.scalar(select(ApiKey.id).where(ApiKey.hash == _hash(secret), ApiKey.revoked_at.is_(None)))
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
    """Return the condition that a key is there and was not revoked, for a query that has other work to do."""
    return exists().where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))


def refuse() -> NoReturn:
    """Raise what is told to whoever shows a key that does not hold; nobody is told why."""
    raise UnauthorizedError("This API key is not known here, or it was revoked.")


def _hash(secret: str) -> str:
    # No salt and no slow hash: nobody can guess 256 random bits.
    return hashlib.sha256(secret.encode()).hexdigest()
