"""Watching walks on behalf of all who wait for them: one query serves all, and their number is limited."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Never, TypeVar
from uuid import UUID

from fastapi.concurrency import run_in_threadpool

from api.access import Caller
from api.live import listener
from momalisa.db.session import transaction
from momalisa.errors import LimitExceededError, TooManyWaitersError
from momalisa.settings import settings
from momalisa.walks import queries
from momalisa.walks.queries import SharedSnapshot, Snapshot

T = TypeVar("T")

SHARED_SECONDS = 0.5
"""How long the result of a query serves new waiters, who are notified of later changes like all others."""

RETRY_SECONDS = 5
"""Retry-After when the caller has reached its limit."""

open_waits: Counter[str] = Counter()
"""Number of streams and long polls, by tenant."""

watches: dict[UUID, "Watch"] = {}

_ending = False


@contextmanager
def slot(caller: Caller) -> Iterator[None]:
    """Count a stream or long poll of a caller during the block.

    Raises:
        LimitExceededError: if the caller has reached MAX_OPEN_WAITS.
        TooManyWaitersError: if this process has reached MAX_PROCESS_WAITS.
    """
    if settings().rate_limits and open_waits[caller.tenant] >= settings().max_open_waits:
        raise LimitExceededError(
            f"You have {open_waits[caller.tenant]} open streams and long polls, which is the maximum.",
            retry_after=RETRY_SECONDS,
        )
    if open_waits.total() >= settings().max_process_waits:
        raise TooManyWaitersError(
            "This server has reached its maximum of open streams and long polls; poll without waiting."
        )
    open_waits[caller.tenant] += 1
    try:
        yield
    finally:
        open_waits[caller.tenant] -= 1
        if not open_waits[caller.tenant]:
            del open_waits[caller.tenant]


class Watch:
    """Queries a walk for all who wait for it in this process, when it changes and at intervals."""

    def __init__(self, walk_id: UUID, change: asyncio.Event) -> None:
        self.walk_id = walk_id
        self.keys: Counter[UUID] = Counter()
        """The API keys of the waiters."""
        self.waiters = 0
        self._change = change
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._checked_keys: frozenset[UUID] = frozenset()
        self._seen: SharedSnapshot | Exception | None = None
        self._seen_at = 0.0  # monotonic seconds
        self._read: dict[object, tuple[int, float, asyncio.Future[Any]]] = {}
        self.task = asyncio.create_task(self._run())

    async def now(self, caller: Caller) -> "Look":
        """Return the walk as it is now; callers at the same time share a query."""
        async with self._lock:
            fresh = self._seen is not None and time.monotonic() - self._seen_at < SHARED_SECONDS
            if not fresh or (caller.key is not None and caller.key not in self._checked_keys):
                await self._query()
            return Look(self, caller, self._seen)

    async def after(self, look: "Look", seconds: float) -> "Look":
        """Return the next look after `look`, or the same if there is none within `seconds`."""
        if self._seen is look.seen:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        return Look(self, look.caller, self._seen)

    async def read(self, look: "Look", key: object, read: Callable[[str | None], T]) -> T:
        """Return the result of `read` for the viewer of a look.

        It is computed once for all waiters with the same `key`. Viewers who own neither the walk nor the one it
        started from see the same, so they share the result for the public.
        """
        viewer, revision = look.viewer(), look.snapshot().revision
        key = (key, viewer)
        known = self._read.get(key)
        if known is None or known[0] != revision or time.monotonic() - known[1] > SHARED_SECONDS:
            known = (revision, time.monotonic(), asyncio.ensure_future(run_in_threadpool(read, viewer)))
            self._read[key] = known
        result: T = await asyncio.shield(known[2])
        return result

    def wake(self) -> None:
        """Wake all waiters."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _run(self) -> Never:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._change.wait(), listener.poll_seconds())
            self._change.clear()
            async with self._lock:
                await self._query()

    async def _query(self) -> None:
        keys = frozenset(self.keys)
        try:
            self._seen = await run_in_threadpool(_snapshot, self.walk_id, keys)
        except Exception as error:  # noqa: BLE001 - raised in all waiters
            self._seen = error
        self._checked_keys, self._seen_at = keys, time.monotonic()
        self._read.clear()
        self.wake()


class Look:
    """The result of a query, as one caller may see it."""

    def __init__(self, watch: Watch, caller: Caller, seen: SharedSnapshot | Exception | None) -> None:
        self.watch, self.caller, self.seen = watch, caller, seen

    def snapshot(self) -> Snapshot:
        """Return what the caller sees.

        Raises:
            InvalidKeyError: if the caller's API key is no longer valid.
            WalkNotFoundError: if there is none with this id that the caller may see.
            WalkExpiredError: if it is past its retention.
            StoreUnavailableError: if PostgreSQL cannot be reached.
        """
        return self._result().seen_by(self.caller.owner, self.caller.key)

    def viewer(self) -> str | None:
        """Return the viewer to read the walk for: the caller, or None if the caller sees what the public sees."""
        return self.caller.owner if self._result().shows_more_to(self.caller.owner) else None

    def _result(self) -> SharedSnapshot:
        if isinstance(self.seen, Exception):
            raise self.seen
        assert self.seen
        return self.seen


@contextmanager
def watched(walk_id: UUID, caller: Caller) -> Iterator[Watch]:
    """Watch a walk for a caller during the block, together with all others who wait for it."""
    watch = watches.get(walk_id)
    if watch is None:
        watch = watches[walk_id] = Watch(walk_id, listener.subscribe(walk_id))
    watch.waiters += 1
    if caller.key is not None:
        watch.keys[caller.key] += 1
    try:
        yield watch
    finally:
        watch.waiters -= 1
        if caller.key is not None:
            watch.keys[caller.key] -= 1
            if not watch.keys[caller.key]:
                del watch.keys[caller.key]
        if not watch.waiters:
            watch.task.cancel()
            listener.unsubscribe(walk_id)
            del watches[walk_id]


def begin() -> None:
    """Allow waiting, when this process starts."""
    global _ending  # noqa: PLW0603
    _ending = False


def end() -> None:
    """End all waiting, because this process is shutting down."""
    global _ending  # noqa: PLW0603
    _ending = True
    for watch in watches.values():
        watch.wake()


def ending() -> bool:
    """Return whether all waiting must end."""
    return _ending


def _snapshot(walk_id: UUID, keys: frozenset[UUID]) -> SharedSnapshot:
    with transaction() as session:
        return queries.shared_snapshot(session, walk_id, keys)
