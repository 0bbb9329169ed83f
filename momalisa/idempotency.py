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


def remember(session: Session, *, caller: str, key: str, request: bytes, walk_id: UUID) -> UUID:
    """Remember which walk a key makes, before it is made, and return it; or the earlier one, if the key is known.

    Of several transactions with one key, one goes on and the others wait for its end.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    digest = hashlib.sha256(request).hexdigest()
    mine = (IdempotencyKey.caller == caller, IdempotencyKey.key == key)
    session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at < func.now() - KEPT))
    session.execute(
        insert(IdempotencyKey)
        .values(caller=caller, key=key, request=digest, walk_id=walk_id)
        .on_conflict_do_nothing()
    )
    known = session.execute(select(IdempotencyKey.request, IdempotencyKey.walk_id).where(*mine)).one()
    if known.request != digest:
        raise IdempotencyKeyReusedError(
            f"Idempotency-Key: {key} was used within the last 24 hours for another request; use a new key."
        )
    found: UUID = known.walk_id
    return found


def forget_old(session: Session) -> None:
    """Forget keys that are older than 24 hours."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))
