"""Watching walks for all who wait for them: one look serves all, and only so many may wait."""

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
from momalisa.errors import LimitExceededError, TooManyWaitError
from momalisa.settings import settings
from momalisa.walks import queries
from momalisa.walks.queries import SharedSnapshot, Snapshot

T = TypeVar("T")

SHARED_SECONDS = 0.5
"""How long a query serves later waiters, who learn of changes since then like all others."""

RETRY_SECONDS = 5
"""When to come back after having too many answers held back."""

_open: Counter[str] = Counter()
"""Answers that are held back, and streams, by tenant."""

_watches: dict[UUID, "Watch"] = {}

_ending = False


@contextmanager
def slot(caller: Caller) -> Iterator[None]:
    """Give a caller one of the places of those who wait, for the length of the block.

    Raises:
        LimitExceededError: if the caller has as many as it may have.
        TooManyWaitError: if there is none left in this process.
    """
    if settings().rate_limits and _open[caller.tenant] >= settings().max_open_waits:
        raise LimitExceededError(
            f"{_open[caller.tenant]} of your answers are held back or streamed already, which is the limit.",
            retry_after=RETRY_SECONDS,
        )
    if _open.total() >= settings().max_process_waits:
        raise TooManyWaitError(
            "Too many requests wait for walks on this server just now; look again without waiting."
        )
    _open[caller.tenant] += 1
    try:
        yield
    finally:
        _open[caller.tenant] -= 1
        if not _open[caller.tenant]:
            del _open[caller.tenant]


class Watch:
    """Looks at one walk for all who wait for it in this process, when it changes and from time to time."""

    def __init__(self, walk_id: UUID, change: asyncio.Event) -> None:
        self.walk_id = walk_id
        self.keys: Counter[UUID] = Counter()
        """The API keys of those who wait."""
        self.waiters = 0
        self._change = change
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._asked: frozenset[UUID] = frozenset()
        self._seen: SharedSnapshot | Exception | None = None
        self._seen_at = 0.0  # monotonic seconds
        self._read: dict[object, tuple[int, float, asyncio.Future[Any]]] = {}
        self.task = asyncio.create_task(self._run())

    async def now(self, caller: Caller) -> "Look":
        """Return how the walk is now; many who come at once are served by one look."""
        async with self._turn:
            fresh = self._seen is not None and time.monotonic() - self._seen_at < SHARED_SECONDS
            if not fresh or (caller.key is not None and caller.key not in self._asked):
                await self._look()
            return Look(self, caller, self._seen)

    async def after(self, look: "Look", seconds: float) -> "Look":
        """Return the look after another one, or that one if there is none for so long."""
        if self._seen is look.seen:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        return Look(self, look.caller, self._seen)

    async def read(self, look: "Look", key: object, read: Callable[[str | None], T]) -> T:
        """Return what is read of the walk at a look, by the name of its viewer.

        It is read once for all with one key who want it at that moment. Those who own neither the walk nor what it
        started from see the same of it, so it is read for all of them as for somebody who owns nothing.
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
        """Have all who wait look up."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _run(self) -> Never:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._change.wait(), listener.look_seconds())
            self._change.clear()
            async with self._turn:
                await self._look()

    async def _look(self) -> None:
        asked = frozenset(self.keys)
        try:
            self._seen = await run_in_threadpool(_sight, self.walk_id, asked)
        except Exception as error:  # noqa: BLE001 - all who wait raise it
            self._seen = error
        self._asked, self._seen_at = asked, time.monotonic()
        self._read.clear()
        self.wake()


class Look:
    """A look at a walk, as one caller may see it."""

    def __init__(self, watch: Watch, caller: Caller, seen: SharedSnapshot | Exception | None) -> None:
        self.watch, self.caller, self.seen = watch, caller, seen

    def snapshot(self) -> Snapshot:
        """Return what the caller sees.

        Raises:
            UnauthorizedError: if the caller's API key no longer holds.
            WalkNotFoundError: if there is none with this id that the caller may see.
            WalkExpiredError: if it is past its retention.
            StoreUnavailableError: if PostgreSQL cannot be reached.
        """
        return self._sight().seen_by(self.caller.owner, self.caller.key)

    def viewer(self) -> str | None:
        """Return as whom to read the walk so that it looks as it does to the caller; None owns nothing."""
        return self.caller.owner if self._sight().looks_different_to(self.caller.owner) else None

    def _sight(self) -> SharedSnapshot:
        if isinstance(self.seen, Exception):
            raise self.seen
        assert self.seen
        return self.seen


@contextmanager
def watched(walk_id: UUID, caller: Caller) -> Iterator[Watch]:
    """Watch a walk for a caller, together with all others who wait for it, for the length of the block."""
    watch = _watches.get(walk_id)
    if watch is None:
        watch = _watches[walk_id] = Watch(walk_id, listener.subscribe(walk_id))
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
            del _watches[walk_id]


def begin() -> None:
    """Let callers wait from now on."""
    global _ending  # noqa: PLW0603
    _ending = False


def end() -> None:
    """End all waiting, because this process is about to end."""
    global _ending  # noqa: PLW0603
    _ending = True
    for watch in _watches.values():
        watch.wake()


def ending() -> bool:
    """Tell whether this process is about to end, so that all waiting must end."""
    return _ending


def _sight(walk_id: UUID, asked: frozenset[UUID]) -> SharedSnapshot:
    with transaction() as session:
        return queries.shared_snapshot(session, walk_id, asked)
