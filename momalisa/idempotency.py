"""Submitting safely: the same key makes the same walk, however often and however many at once ask for it."""

import hashlib
import re
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from momalisa.errors import IdempotencyKeyError, IdempotencyKeyReusedError
from momalisa.tables import IdempotencyKey

KEPT = timedelta(hours=24)
VALID = re.compile(r"[\x21-\x7e]{1,255}")


def check(key: str) -> None:
    """Refuse a key that is malformed.

    Raises:
        IdempotencyKeyError: unless it is 1 to 255 visible ASCII characters.
    """
    if not VALID.fullmatch(key):
        raise IdempotencyKeyError(
            f"Idempotency-Key: must be 1 to 255 visible ASCII characters without blanks, got {len(key)} characters."
        )


def known(session: Session, *, caller: str, key: str, request: bytes) -> UUID | None:
    """Return the walk that a key has made, or None if it has made none yet.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    found = session.execute(
        select(IdempotencyKey.request, IdempotencyKey.walk_id).where(
            IdempotencyKey.caller == caller,
            IdempotencyKey.key == key,
            IdempotencyKey.created_at >= func.now() - KEPT,
        )
    ).one_or_none()
    if found is None:
        return None
    if found.request != _digest(request):
        raise IdempotencyKeyReusedError(
            f"Idempotency-Key: {key} was used within the last 24 hours for another request; use a new key."
        )
    walk_id: UUID = found.walk_id
    return walk_id


def remember(session: Session, *, caller: str, key: str, request: bytes, walk_id: UUID) -> UUID:
    """Remember which walk a key makes, before it is made, and return it; or the earlier one, if the key is known.

    Of several transactions with one key, one goes on and the others wait for its end.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    mine = (IdempotencyKey.caller == caller, IdempotencyKey.key == key)
    session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at < func.now() - KEPT))
    session.execute(
        insert(IdempotencyKey)
        .values(caller=caller, key=key, request=_digest(request), walk_id=walk_id)
        .on_conflict_do_nothing()
    )
    made = known(session, caller=caller, key=key, request=request)
    assert made
    return made


def forget_old(session: Session) -> None:
    """Forget keys that are older than 24 hours."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))


def _digest(request: bytes) -> str:
    return hashlib.sha256(request).hexdigest()
