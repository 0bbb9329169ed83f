"""Submitting safely: the same key makes the same walk, however often and however many at once ask for it."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from momalisa.db.models import IdempotencyKey
from momalisa.errors import IdempotencyKeyError, IdempotencyKeyReusedError

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


@dataclass(frozen=True)
class IdempotentRequest:
    """A request that may be sent again under its key."""

    callers: Sequence[str]
    """For whom the key holds: an owner, after the address if that may stand for somebody who is not known yet."""
    key: str
    request: str
    """The fingerprint of the request."""


def fingerprint(body: bytes) -> str:
    """Return what tells apart the JSON bodies of requests: all that was sent, but not its blanks and its order.

    What was left out is not what was sent as its default: `from_walk` fills in the one and not the other.
    """
    return hashlib.sha256(json.dumps(json.loads(body), sort_keys=True).encode()).hexdigest()


def find(session: Session, sent: IdempotentRequest) -> UUID | None:
    """Return the walk that a key has made, or None if it has made none yet.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    return next((made for caller in sent.callers if (made := _made(session, caller, sent))), None)


def remember(session: Session, sent: IdempotentRequest, walk_id: UUID) -> UUID:
    """Remember which walk a key makes, before it is made, and return it; or the earlier one, if the key is known.

    Of several transactions with one key, one goes on and the others wait for its end.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    for caller in sent.callers:
        mine = (IdempotencyKey.caller == caller, IdempotencyKey.key == sent.key)
        session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at < func.now() - KEPT))
        made = None
        while made is None:  # a walk may be removed, with its key, between the two
            session.execute(
                insert(IdempotencyKey)
                .values(caller=caller, key=sent.key, request=sent.request, walk_id=walk_id)
                .on_conflict_do_nothing()
            )
            made = _made(session, caller, sent)
        if made != walk_id:
            return made
    return walk_id


def _made(session: Session, caller: str, sent: IdempotentRequest) -> UUID | None:
    found = session.execute(
        select(IdempotencyKey.request, IdempotencyKey.walk_id).where(
            IdempotencyKey.caller == caller,
            IdempotencyKey.key == sent.key,
            IdempotencyKey.created_at >= func.now() - KEPT,
        )
    ).one_or_none()
    if found is None:
        return None
    if found.request != sent.request:
        raise IdempotencyKeyReusedError(
            f"Idempotency-Key: {sent.key} was used within the last 24 hours for another request; use a new key."
        )
    walk_id: UUID = found.walk_id
    return walk_id


def forget_old(session: Session) -> None:
    """Forget keys that are older than 24 hours."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))
