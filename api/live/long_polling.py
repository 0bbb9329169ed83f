"""Cheap polling of a walk: entity tags, polling intervals, and waiting for a change."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Header, Request

from api.access import Caller
from api.live import watchers
from api.middleware import etags
from momalisa.db.session import transaction
from momalisa.domain.states import WalkStatus
from momalisa.errors import LimitExceededError, TooManyWaitersError
from momalisa.storage import bucket
from momalisa.walks import queries
from momalisa.walks.queries import Snapshot

T = TypeVar("T")

MAX_WAIT_SECONDS = 30
"""Maximum time that a response may be delayed."""

QUEUE_SECONDS = 10
"""How often the entity tag of a queued walk changes, because its place in the queue may have changed."""


def snapshot(walk_id: UUID, caller: Caller) -> Snapshot:
    """Return a snapshot of a walk, by one query.

    Raises:
        InvalidKeyError: if the caller's API key is no longer valid.
        WalkNotFoundError: if there is none with this id that the caller may see.
        WalkExpiredError: if it is past its retention.
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    with transaction() as session:
        return queries.snapshot(session, walk_id, viewer=caller.owner, key=caller.key)


def etag(seen: Snapshot) -> str:
    """Return the entity tag of a walk: it changes with its revision and its URLs, and while queued with time."""
    parts = [seen.revision]
    if seen.status == WalkStatus.QUEUED:
        parts.append(int(time.time() // QUEUE_SECONDS))
    if expires_at := bucket.urls_expire_at():
        parts.append(int(expires_at.timestamp()))
    return f'W/"{".".join(map(str, parts))}"'


def matches(if_none_match: str | None, seen: Snapshot) -> bool:
    """Return whether an If-None-Match header names the current entity tag."""
    return etags.matches(if_none_match, etag(seen))


def retry_after(seen: Snapshot) -> int:
    """Return how many seconds a client should wait before the next poll: more while the walk is queued for long."""
    if seen.status != WalkStatus.QUEUED or seen.age_seconds < 10:  # noqa: PLR2004
        return 1
    return 5 if seen.age_seconds < 60 else QUEUE_SECONDS  # noqa: PLR2004


def prefer_wait(
    request: Request,
    _prefer: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`wait=N` delays the response until the walk has changed, or a new walk is done, for N "
            "seconds at most (up to 30).",
        ),
    ] = None,
) -> int:
    """Return how long a request asks to wait, in seconds, in any of its Prefer headers."""
    return parse_prefer(request.headers.getlist("prefer"))


def parse_prefer(prefer: Sequence[str]) -> int:
    """Return how long Prefer headers (RFC 7240) ask to wait, in seconds, at most MAX_WAIT_SECONDS.

    The first `wait` counts. It is ignored unless it is a whole number of seconds; its parameters are ignored.
    """
    for preference in ",".join(prefer).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            found = re.fullmatch(r'([0-9]{1,6})|"([0-9]{1,6})"', value.strip())
            return min(int(found[1] or found[2]), MAX_WAIT_SECONDS) if found else 0
    return 0


async def until_done(request: Request, walk_id: UUID, caller: Caller, seconds: float) -> None:
    """Wait until a walk is done, the time is up, or the client has disconnected."""
    ends = time.monotonic() + seconds
    full = suppress(LimitExceededError, TooManyWaitersError)  # then it returns at once
    with full, watchers.slot(caller), watchers.watched(walk_id, caller) as watch:
        look = await watch.now(caller)
        while not look.snapshot().status.done and (left := ends - time.monotonic()) > 0:
            if watchers.ending() or await request.is_disconnected():
                return
            look = await watch.after(look, left)


async def for_change(
    request: Request,
    walk_id: UUID,
    caller: Caller,
    if_none_match: str | None,
    seconds: float,
    read: Callable[[str | None], T],
    shared_by: object,
) -> tuple[Snapshot, T | None]:
    """Return a snapshot of a walk once it differs from what the caller knows, is done, or the time is up.

    Args:
        request: of the caller.
        walk_id: of the walk.
        caller: who waits.
        if_none_match: the entity tag that the caller knows; None means the present one.
        seconds: maximum time to wait.
        read: reads the walk for a viewer, once for all waiters that see the same and have the same `shared_by`.
        shared_by: everything else that the result of `read` depends on.

    Returns:
        The snapshot, and the result of `read`, or None if the caller knows it by `if_none_match`.

    Raises:
        LimitExceededError: if the caller has reached its limit of streams and long polls.
        TooManyWaitersError: if this process has reached its limit.
        MomalisaError: as in `snapshot`.
    """
    ends = time.monotonic() + seconds
    with watchers.slot(caller), watchers.watched(walk_id, caller) as watch:
        look = await watch.now(caller)
        seen = look.snapshot()
        known = if_none_match or etag(seen)
        while matches(known, seen) and not seen.status.done and (left := ends - time.monotonic()) > 0:
            if watchers.ending() or await request.is_disconnected():
                break
            look = await watch.after(look, left)
            seen = look.snapshot()
        if matches(if_none_match, seen):
            return seen, None
        return seen, await watch.read(look, shared_by, read)
