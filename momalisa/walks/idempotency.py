"""Idempotency keys: requests with the same key create one walk, however often and concurrently they are sent."""

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

LIFETIME = timedelta(hours=24)
VALID = re.compile(r"[\x21-\x7e]{1,255}")


def check(key: str) -> None:
    """Check the syntax of a key.

    Raises:
        IdempotencyKeyError: unless it is 1 to 255 visible ASCII characters.
    """
    if not VALID.fullmatch(key):
        raise IdempotencyKeyError(
            f"Idempotency-Key: must be 1 to 255 visible ASCII characters without spaces, got {len(key)} characters."
        )


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an idempotency key."""

    callers: Sequence[str]
    """The callers under whom the key is stored: the owner, or the tenant and the owner."""
    key: str
    request: str
    """Fingerprint of the body."""


def identify(key: str, body: bytes, *, owner: str, tenant: str, known: bool, public: bool) -> IdempotentRequest:
    """Return a request with its idempotency key, scoped to its caller.

    A key belongs to the owner. A visitor without a cookie may have missed the response that set it, and can only be
    recognised by the network address. Others share that address, so it counts only for public walks.

    Args:
        key: the idempotency key.
        body: the JSON that was sent.
        owner: who will own the walk.
        tenant: the tenant of the request; for a visitor, the network address.
        known: whether the request identified its owner; if not, a new owner was generated for it.
        public: whether the walk is public.
    """
    callers = [owner] if known or not public else [tenant, owner]
    return IdempotentRequest(callers, key, fingerprint(body))


def fingerprint(body: bytes) -> str:
    """Return a hash of a JSON body that ignores white space and the order of keys.

    A field that was omitted differs from one that was sent with its default: `from_walk` fills in only the former.
    """
    return hashlib.sha256(json.dumps(json.loads(body), sort_keys=True).encode()).hexdigest()


def find(session: Session, sent: IdempotentRequest) -> UUID | None:
    """Return the walk that was created with a key, or None if there is none yet.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    return next((walk_id for caller in sent.callers if (walk_id := _created(session, caller, sent))), None)


def remember(session: Session, sent: IdempotentRequest, walk_id: UUID) -> UUID:
    """Record a walk under a key before it is created, and return it; or the earlier walk, if the key was used.

    Of several transactions with one key, one proceeds and the others wait until it ends.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    for caller in sent.callers:
        mine = (IdempotencyKey.caller == caller, IdempotencyKey.key == sent.key)
        session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at < func.now() - LIFETIME))
        recorded = None
        while recorded is None:  # between the two statements, the earlier walk may be removed with its key
            session.execute(
                insert(IdempotencyKey)
                .values(caller=caller, key=sent.key, request=sent.request, walk_id=walk_id)
                .on_conflict_do_nothing()
            )
            recorded = _created(session, caller, sent)
        if recorded != walk_id:
            return recorded
    return walk_id


def _created(session: Session, caller: str, sent: IdempotentRequest) -> UUID | None:
    found = session.execute(
        select(IdempotencyKey.request, IdempotencyKey.walk_id).where(
            IdempotencyKey.caller == caller,
            IdempotencyKey.key == sent.key,
            IdempotencyKey.created_at >= func.now() - LIFETIME,
        )
    ).one_or_none()
    if found is None:
        return None
    if found.request != sent.request:
        raise IdempotencyKeyReusedError(
            f"Idempotency-Key: {sent.key} was used for another request within the last 24 hours; use a new key."
        )
    walk_id: UUID = found.walk_id
    return walk_id


def delete_expired(session: Session) -> None:
    """Delete keys that are older than 24 hours."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - LIFETIME))
