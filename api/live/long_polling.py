"""Looking at a walk cheaply, again and again: entity tags, pauses between looks, and waiting for a change."""

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
from momalisa.errors import LimitExceededError, TooManyWaitError
from momalisa.storage import bucket
from momalisa.walks import queries
from momalisa.walks.queries import Snapshot

T = TypeVar("T")

LONGEST_SECONDS = 30
"""Longest time that a response is held back."""

QUEUE_SECONDS = 10
"""How often the place of a queued walk is worth telling again; it changes without the walk's doing."""


def look(walk_id: UUID, caller: Caller) -> Snapshot:
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
    """Return the entity tag of a walk: it changes with its revision, in the queue with time, and with its URLs."""
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
    """Return how long a client should wait before it looks again, in seconds: longer the longer the queue is."""
    if seen.status != WalkStatus.QUEUED or seen.age_seconds < 10:  # noqa: PLR2004
        return 1
    return 5 if seen.age_seconds < 60 else QUEUE_SECONDS  # noqa: PLR2004


def prefer_wait(
    request: Request,
    _prefer: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`wait=N` holds the answer back until something has changed, or a walk that is made is "
            "done, for N seconds at most, and at most 30.",
        ),
    ] = None,
) -> int:
    """Return how long a request asks to wait, in seconds; it may say so on any of several Prefer lines."""
    return parse_prefer(request.headers.getlist("prefer"))


def parse_prefer(prefer: Sequence[str]) -> int:
    """Return how long Prefer headers (RFC 7240) ask to wait, in seconds, at most LONGEST_SECONDS.

    The first `wait` counts; what is no whole number of seconds is ignored, as are its parameters.
    """
    for preference in ",".join(prefer).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            found = re.fullmatch(r'([0-9]{1,6})|"([0-9]{1,6})"', value.strip())
            return min(int(found[1] or found[2]), LONGEST_SECONDS) if found else 0
    return 0


async def until_done(request: Request, walk_id: UUID, caller: Caller, seconds: float) -> None:
    """Wait until a walk is done, the time is up, or the client has disconnected."""
    ends = time.monotonic() + seconds
    full = suppress(LimitExceededError, TooManyWaitError)  # then it does not wait
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
    """Return a snapshot of a walk once it differs from what the caller knows, or is done, or the time is up.

    The caller knows what `if_none_match` names, or else the walk as it is now. What is new is `read` by the name of
    its viewer, once for all who wait for this walk, see the same of it and have `shared_by` in common; None if the
    caller knows it by `if_none_match`.

    Raises:
        LimitExceededError: if the caller has as many answers held back as it may.
        TooManyWaitError: if too many wait in this process.
        MomalisaError: as `look` does.
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
