"""Idempotency keys: the same key makes one walk, however many requests send it, and when."""

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
    """Check the syntax of a key.

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
    """Whose key it is: an owner's, or that of a tenant and an owner."""
    key: str
    request: str
    """The fingerprint of the request."""


def identify(key: str, body: bytes, *, owner: str, tenant: str, known: bool, public: bool) -> IdempotentRequest:
    """Return a request under its key, given who sent it.

    A key is its owner's. A visitor without an identity, who may have missed the response that gave one, is known by
    the address alone, which others share; so there the key counts only for walks that everyone may see.

    Args:
        key: the idempotency key.
        body: the JSON that was sent.
        owner: who will own the walk.
        tenant: the network address of a visitor.
        known: whether the request proved to be the owner's; if not, the owner was drawn for it.
        public: whether the walk is public.
    """
    callers = [owner] if known or not public else [tenant, owner]
    return IdempotentRequest(callers, key, fingerprint(body))


def fingerprint(body: bytes) -> str:
    """Return a hash of a JSON body that ignores white space and the order of keys.

    A field that was left out differs from one that was sent as its default: `from_walk` fills in only the former.
    """
    return hashlib.sha256(json.dumps(json.loads(body), sort_keys=True).encode()).hexdigest()


def find(session: Session, sent: IdempotentRequest) -> UUID | None:
    """Return the walk that a key has made, or None if there is none yet.

    Raises:
        IdempotencyKeyReusedError: if the key was used before for another request.
    """
    return next((made for caller in sent.callers if (made := _made(session, caller, sent))), None)


def remember(session: Session, sent: IdempotentRequest, walk_id: UUID) -> UUID:
    """Record which walk a key makes, before it is made, and return it; or the earlier one, if the key was used.

    Of several transactions with one key, one proceeds and the others wait until it ends.

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
    """Delete keys that are older than 24 hours."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))
