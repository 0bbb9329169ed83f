"""Working under a lease: claim a chunk, keep it by heartbeats, record the result, or give it up cleanly.

A process has three threads: one claims and renders, the finisher finishes what is rendered while the next chunk is,
and one watches over both (`docs/decisions/0019-overlap.md`).
"""

import contextvars
import mmap
import os
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Never, Self, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from momalisa import chunks, monitoring, queue, tracing
from momalisa.chunks import Claim, Due
from momalisa.database import transaction
from momalisa.errors import LeaseLostError, RendererBusyError, StoreUnavailableError
from momalisa.log import logger
from momalisa.settings import settings
from momalisa.tables import ChunkKind
from worker import pulse
from worker.pulse import State

log = logger(__name__)

T = TypeVar("T")

Record = Callable[[Session], Due | None]
"""Writes the result of some work; returns the chunks that can be claimed because of it."""

Finish = Callable[[], Record]
"""Does what is left of some work once the next may begin, as uploads are; returns what is to be written."""

STOP_SECONDS = 10
"""How long the work at hand may take to end when the worker is asked to stop; Spot nodes grant 15 s in all."""

TRANSFERS = 8
"""Objects that are uploaded or downloaded at once."""

REPORT_SECONDS = 5
"""How long a process that hangs may take to say so before it ends."""

PATIENCE_SECONDS = 300
"""How long a finished result is held while the database is away."""

_failed: set[UUID] = set()
"""The walks at which this process failed since it last did anything right."""

_finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")
_finishing: Future[None]
"""What the finisher does, or did last."""

_stop = mmap.mmap(-1, 1)  # one byte that is shared with the children that Celery forks; no lock to die with


class Stopping(Exception):  # noqa: N818
    """This worker was told to stop."""


def stop() -> None:
    """Tell this process and its children to claim nothing more and to give back what they have."""
    _stop[0] = 1


def stopping() -> bool:
    """Tell whether this worker was told to stop."""
    return _stop[0] != 0


class Hold(ABC):
    """The right to do some work, as long as it lasts."""

    rendered = 0
    """Frames that a model made under it."""
    wanted = 0
    """Of them, those that are to be recorded."""

    @abstractmethod
    def check(self) -> None:
        """Raise if the work should end. Cheap: call it often."""

    @abstractmethod
    def confirm(self) -> None:
        """Raise unless the work is certain to be ours still."""

    def at_once(self, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """Return what a function gives for each set of arguments, from several threads at once.

        When the work should end, it does not wait for what is under way: those threads stop by themselves before
        they try anything again, and what they finish does no harm.
        """
        pool = ThreadPoolExecutor(TRANSFERS)
        try:
            futures = [pool.submit(function, *each) for each in zip(*arguments, strict=True)]
            pending = set(futures)
            while pending:
                self.check()
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Lease(Hold):
    """A claimed chunk that is kept by heartbeats for the length of a `with` block, whichever thread is in it."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.ended = False
        self._step = self._beat = time.monotonic()
        self._lost = threading.Event()
        self._context = contextvars.copy_context()

    def check(self) -> None:
        """Raise if the work should end. Cheap: call it often.

        Raises:
            Stopping: if this worker was told to stop.
            LeaseLostError: if the chunk is no longer ours, as far as the last heartbeat knows.
        """
        self.step()
        if stopping():
            raise Stopping
        if self._lost.is_set():
            raise LeaseLostError(f"Chunk {self.claim.number} of walk {self.claim.walk_id} is no longer ours.")

    def step(self) -> None:
        """Show that the work does not hang."""
        self._step = time.monotonic()

    def confirm(self) -> None:
        """Ask the database whether the chunk is still ours, and prolong the lease.

        Raises:
            LeaseLostError: if it is not.
            StoreUnavailableError: if nobody knows.
        """
        with transaction() as session:
            chunks.heartbeat(session, self.claim)

    def __enter__(self) -> Self:
        _changed.put(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = True
        _changed.put(self)

    def stalled_seconds(self) -> float:
        """Return how long ago the last step was made, in seconds."""
        return time.monotonic() - self._step

    def beat(self) -> None:
        """Send a heartbeat if it is time for one; for the thread that `watch` starts."""
        now = time.monotonic()
        if now - self._beat >= settings().lease_seconds / 3:
            self._beat = now
            self._context.run(self._send_heartbeat)

    def _send_heartbeat(self) -> None:
        try:
            self.confirm()
        except LeaseLostError:
            self._lost.set()
        except StoreUnavailableError as error:
            log.warning("heartbeat not sent", reason=str(error))

    def abandon(self, *, hung: bool) -> None:
        """Give the chunk up, since its process ends: as a failed attempt if it hung; for that thread, too."""
        self._context.run(self._abandon, hung)

    def _abandon(self, hung: bool) -> None:
        with suppress(LeaseLostError), transaction() as session:
            if hung:
                log.critical("hung, so this process ends", seconds=round(self.stalled_seconds()))
                chunks.attempt_failed(session, self.claim, "its worker hung")
            else:
                log.warning("given back", cause="another chunk hung")
                chunks.give_back(session, self.claim)


Work = Callable[[Lease], Finish]
"""Does some work up to where the next may begin, and returns what is left of it."""

_changed: SimpleQueue[Lease] = SimpleQueue()
"""Leases that began or ended."""


@cache
def watch() -> None:
    """Start the threads of this process: one that keeps its leases and ends it when it hangs, and the finisher.

    There is one of each for all leases, started before any is claimed: a thread that is to start when memory has
    run out may hang the one that starts it, and then nobody would watch.
    """
    global _finishing  # noqa: PLW0603 - once in the life of a process
    threading.Thread(target=_watch, name="watch", daemon=True).start()
    _finishing = _finisher.submit(lambda: None)


def _watch() -> Never:
    kept: set[Lease] = set()
    asked_to_stop = None
    try:
        while True:
            with suppress(Empty):
                changed = _changed.get(timeout=min(settings().lease_seconds / 3, 1.0) if kept else None)
                kept = {lease for lease in kept | {changed} if not lease.ended}
            pulse.tell(State.WORKING if kept else State.READY)
            asked_to_stop = (asked_to_stop or time.monotonic()) if kept and stopping() else None
            too_late = asked_to_stop is not None and time.monotonic() - asked_to_stop > STOP_SECONDS
            hung = {lease for lease in kept if too_late or lease.stalled_seconds() > settings().stall_seconds}
            if hung:
                _end_process(hung, kept - hung)
            for lease in kept:
                lease.beat()
    finally:
        os._exit(1)  # whatever went wrong here, nothing may be done without a watch


def _end_process(hung: Iterable[Lease], others: Iterable[Lease]) -> Never:
    """Give all chunks up, if that can be done, and end the process; the kernel does it if even this hangs."""
    signal.alarm(REPORT_SECONDS)
    try:
        for lease in others:  # first, since what hangs may hold a lock on its own chunk
            lease.abandon(hung=False)
        for lease in hung:
            lease.abandon(hung=True)
    finally:
        os._exit(1)


def run(kind: ChunkKind, work: Work) -> None:
    """Claim the best chunk of a kind, do the work, and record it; return at once if there is nothing to do.

    Raises:
        SystemExit: as `begin`.
    """
    begin(kind, work)
    drain()
    _end_if_broken(_finishing)


def begin(kind: ChunkKind, work: Work) -> None:
    """Do as `run` does, but leave what is left when the next chunk may begin to the finisher.

    That has one chunk at a time: it waits here until the one before is finished.

    Raises:
        SystemExit: if two walks in a row failed here. Then the fault may well be the process's own (a CUDA error,
            no memory left), so the next chunk gets a fresh one. Wait for the finisher before (`drain`).
    """
    global _finishing  # noqa: PLW0603 - only the thread that claims writes it
    watch()
    _end_if_broken(_finishing)
    if stopping():
        return
    try:
        with transaction() as session:
            claim = chunks.claim(session, kind, worker=f"{socket.gethostname()}:{os.getpid()}")
    except StoreUnavailableError as error:
        log.warning("nothing claimed", reason=str(error))
        return
    if claim is None:
        log.info("nothing to do", kind=kind)
        return
    before, chunk, context = _finishing, _do(claim, work), contextvars.copy_context()
    over = context.run(next, chunk, True)
    if not over:
        _finishing = _finisher.submit(lambda: context.run(next, chunk, None))
    _end_if_broken(before)


def drain() -> None:
    """Wait until no chunk is being finished."""
    wait([_finishing])


def _end_if_broken(finishing: Future[None]) -> None:
    """End the process if finishing a chunk gave reason to, or failed as nobody foresaw."""
    if finishing.done() and (error := finishing.exception()):
        raise SystemExit(1) from error


def _do(claim: Claim, work: Work) -> Iterator[None]:
    """Do a claimed chunk; `yield` is where the finisher goes on with it, in the same context."""
    walk, number = str(claim.walk_id), claim.number
    with (
        structlog.contextvars.bound_contextvars(walk=walk, chunk=number, kind=claim.kind),
        tracing.span(f"{claim.kind} chunk", parent=claim.trace, walk=walk, chunk=number, attempt=claim.attempt),
    ):
        rest = 0.0
        with Lease(claim) as lease:
            if claim.model != settings().model_name:
                log.error("the walk is for another model", model=claim.model)
                _give_up(lease, lambda session: chunks.model_changed(session, claim))
                tracing.failed("the walk is for another model")
            else:
                rest = yield from _attempt(lease, work)
        _claim_nothing(rest)


def _attempt(lease: Lease, work: Work) -> Generator[None, None, float]:
    """Do the work under a lease, and return for how many seconds to claim nothing after it."""
    claim = lease.claim
    log.info("claimed", attempt=claim.attempt, frames=len(claim.frames))
    if claim.recovery_seconds is not None:
        monitoring.record(monitoring.RECOVERY_SECONDS, claim.recovery_seconds)
    started = time.monotonic()
    recorded, rest, due = 0, 0.0, None
    try:
        finish = work(lease)
        while wait([_finishing], timeout=0.2).not_done:
            lease.check()
        yield
        due = _write(finish(), lease.check)
        recorded = lease.wanted
        _failed.clear()
        seconds = time.monotonic() - started
        monitoring.record(monitoring.CHUNK_SECONDS, seconds, kind=claim.kind)
        log.info("done", seconds=round(seconds, 3))
    except (Stopping, StoreUnavailableError) as cause:
        due = _give_up(lease, lambda session: chunks.give_back(session, claim))
        log.info("given back", cause=type(cause).__name__)
        tracing.failed("given back")
    except RendererBusyError as busy:
        rest = busy.retry_after
        _give_up(lease, lambda session: chunks.give_back(session, claim, rest))
        log.warning("given back", cause=type(busy).__name__, reason=str(busy), due_in=rest)
        tracing.failed("given back")
    except LeaseLostError:
        log.warning("dropped, because the lease is lost")
        tracing.failed("the lease was lost")
    except Exception as error:
        log.exception("attempt failed", attempt=claim.attempt)
        reason = f"{type(error).__name__}: {error}"
        tracing.failed(reason)
        _give_up(lease, lambda session: chunks.attempt_failed(session, claim, reason))
        _failed.add(claim.walk_id)
        if len(_failed) > 1:
            log.error("this process fails again and again, so it ends")
            raise SystemExit(1) from error
    finally:
        if lease.rendered:
            monitoring.record(monitoring.FRAMES_RENDERED, recorded)
            monitoring.record(monitoring.FRAMES_WASTED, lease.rendered - recorded)
    if due is not None:
        lease.step()
        queue.publish(*due)
    return rest


def _claim_nothing(seconds: float) -> None:
    """Keep this process from the next chunk for a while, since that would fare no better."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(min(seconds, 0.2))


def _give_up(lease: Lease, report: Callable[[Session], object]) -> Due | None:
    """Report that a chunk was not done; returns it as due again, or None if it is no longer ours."""
    try:
        _write(report, lease.step)
    except LeaseLostError:
        log.warning("already taken by somebody else")
        return None
    except StoreUnavailableError as error:
        log.warning("not reported; the lease will run out", reason=str(error))
        return None
    return Due(lease.claim.kind)


def _write(write: Callable[[Session], T], check: Callable[[], None]) -> T:
    """Write in a transaction of its own, again and again while the database is away and `check` does not raise.

    What is written is fenced by the lease token, so that a write whose commit went unanswered does no harm when it
    is made again: it finds the chunk closed.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with transaction() as session:
                return write(session)
        except StoreUnavailableError as error:
            if stopping() or time.monotonic() > deadline:
                raise
            log.warning("waiting for the database", reason=str(error))
            time.sleep(1)
            check()
