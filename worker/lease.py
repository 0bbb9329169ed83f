"""Working under a lease: claim a chunk, keep it by heartbeats, record the result, or give it up cleanly."""

import contextvars
import os
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Never, Self, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.errors import LeaseLostError, ModelError, RendererBusyError, StoreBusyError, StoreUnavailableError
from momalisa.queue import celery_app, leases
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.settings import settings
from momalisa.telemetry import metrics, tracing
from momalisa.telemetry.logging import logger
from worker.process import ending, health, heartbeat, pulse
from worker.process.pulse import State
from worker.process.shutdown import STOP_SECONDS, Stopping, stopping

log = logger(__name__)

T = TypeVar("T")

Record = Callable[[Session], Ready | None]
"""Writes the result of some work; returns the chunks that can be claimed because of it."""

THREADS = 8
"""For what is done at once: transfers, which mostly wait, or artifacts."""

REPORT_SECONDS = 5
"""How long a process that hangs may take to say so before it ends."""

PERMIT_SECONDS = 600
"""How long a worker claims by one permit, far below the broker's visibility timeout."""

PATIENCE_SECONDS = 300
"""How long a finished result is held while the database is away."""

DETERMINISTIC = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError),
    *(TypeError, ValueError, ModelError),
)
"""What says that something cannot be done; not that memory, a device, a file or a network failed."""

_failed: set[UUID] = set()
"""The walks at which this process failed since it last did anything right."""


class CancellationToken(ABC):
    """The right to do some work, as long as it lasts."""

    rendered = 0
    """Frames that a model made under it."""
    wanted = 0
    """Of them, those that are to be recorded."""

    @abstractmethod
    def look(self) -> None:
        """Raise if the work should end; for who only waits for it."""

    def check(self) -> None:
        """Raise if the work should end. Cheap: call it at every step of the work, which hangs if it makes none."""
        self.look()

    @abstractmethod
    def confirm(self) -> None:
        """Raise unless the work is certain to be ours still."""

    def at_once(self, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """Return what a function gives for each set of arguments, from several threads at once.

        When the work should end, it does not wait for what is under way: those threads stop by themselves at their
        next `check`, and what they finish does no harm.
        """
        pool = ThreadPoolExecutor(THREADS)
        try:
            futures = [
                pool.submit(contextvars.copy_context().run, function, *each)
                for each in zip(*arguments, strict=True)
            ]
            pending = set(futures)
            while pending:
                self.look()
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Lease(CancellationToken):
    """A claimed chunk that is kept by heartbeats for the length of a `with` block."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._ended = threading.Event()
        self._step = time.monotonic()
        self._lost = threading.Event()
        self._context = contextvars.copy_context()
        self._released = threading.Event()

    def check(self) -> None:
        """Make a step, and raise if the work should end (`look`). Cheap: call it often."""
        self._step = time.monotonic()
        self.look()

    def look(self) -> None:
        """Raise if the work should end.

        Raises:
            Stopping: if this worker was told to stop.
            LeaseLostError: if the chunk is no longer ours, as far as the last heartbeat knows, or is done with.
        """
        if stopping():
            raise Stopping
        if self._lost.is_set() or self._ended.is_set():
            raise LeaseLostError(f"Chunk {self.claim.number} of walk {self.claim.walk_id} is no longer ours.")

    def confirm(self) -> None:
        """Ask the database whether the chunk is still ours, and prolong the lease.

        Raises:
            LeaseLostError: if it is not.
            StoreUnavailableError: if nobody knows.
        """
        with transaction() as session:
            leases.heartbeat(session, self.claim)

    def __enter__(self) -> Self:
        _to_keep.put(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceparent: TracebackType | None
    ) -> None:
        self._ended.set()
        self._released.wait()
        pulse.report(State.READY)

    def keep(self) -> None:
        """Keep the lease until the `with` block ends; for the thread that `watch` starts."""
        self._context.run(self._beat)
        self._released.set()

    def _beat(self) -> None:
        """Send heartbeats; and end the process if its main thread hangs, where no exception would reach it."""
        last_beat, asked_to_stop = time.monotonic(), None
        interval = settings().lease_seconds / 3
        pulse.report(State.WORKING)
        while not self._ended.wait(min(interval, 1.0)):
            now = time.monotonic()
            pulse.report(State.WORKING)
            if stopping():
                asked_to_stop = asked_to_stop or now
            if now - self._step > settings().stall_seconds or now - (asked_to_stop or now) > STOP_SECONDS:
                self._end_process(hung_seconds=now - self._step)
            if now - last_beat < interval:
                continue
            last_beat = now
            try:
                self.confirm()
            except LeaseLostError:
                self._lost.set()
            except StoreUnavailableError as error:
                log.warning("heartbeat not sent", reason=str(error))

    def _end_process(self, hung_seconds: float) -> Never:
        """Give the chunk up, if that can be done, and end the process; the kernel does it if even this hangs."""
        signal.alarm(REPORT_SECONDS)
        try:
            log.critical("hung, so this process ends", seconds=round(hung_seconds))
            with transaction() as session:
                leases.attempt_failed(session, self.claim, ending.HUNG)
        finally:
            os._exit(1)


_to_keep: SimpleQueue[Lease] = SimpleQueue()


@cache
def start_watchdog() -> None:
    """Start the thread of this process that keeps its leases and ends it when it hangs.

    It is one for all leases, started before any is claimed: a thread that is to start when memory has run out may
    hang the one that starts it, and then no thread would watch. The thread that sends notices is started for the
    same reason: it would hang the claim itself.
    """
    notifications.begin()
    threading.Thread(target=_watch, name="watch", daemon=True).start()


def _watch() -> Never:
    try:
        while True:
            _to_keep.get().keep()
    finally:
        os._exit(1)  # whatever went wrong here, nothing may be done without a watch


def run(kind: ChunkKind, work: Callable[[Lease], Record]) -> None:
    """Claim the best chunk of a kind, do the work and record it, again and again until there is nothing to do.

    So a backlog needs no permits; they only wake workers that are idle. It also returns while other permits wait,
    since each is good for a claim, after work that did not go well, and after PERMIT_SECONDS.

    Raises:
        SystemExit: if two walks in a row failed here. Then the fault may well be the process's own (a CUDA error,
            no memory left), so the next chunk gets a fresh one.
    """
    start_watchdog()
    until = time.monotonic() + PERMIT_SECONDS
    while not stopping() and _claim_and_run(kind, work) and time.monotonic() < until and not _permits_wait(kind):
        pass


def _permits_wait(kind: ChunkKind) -> bool:
    try:
        return celery_app.count_messages(kind) > 0
    except celery_app.BROKER_ERRORS:
        return False  # then there is none to be had


def _claim_and_run(kind: ChunkKind, work: Callable[[Lease], Record]) -> bool:
    """Do one chunk; returns whether this worker should look for another."""
    if rest := health.rest_seconds():
        _claim_nothing(rest)
        if stopping():
            return False
    workplace = f"{socket.gethostname()}:{os.getppid()}"
    try:
        with transaction() as session:
            claim = leases.claim(session, kind, heartbeat.name(), workplace)
    except StoreUnavailableError as error:
        log.warning("nothing claimed", reason=str(error))
        return False
    if claim is None:
        log.info("nothing to do", kind=kind)
        return False
    walk, number = str(claim.walk_id), claim.number
    with (
        ending.holding(claim),
        structlog.contextvars.bound_contextvars(walk=walk, chunk=number, kind=kind),
        tracing.span(f"{kind} chunk", parent=claim.traceparent, walk=walk, chunk=number, attempt=claim.attempt),
    ):
        return _run(claim, work)


def _run(claim: Claim, work: Callable[[Lease], Record]) -> bool:
    """Do a claimed chunk; returns whether it went well."""
    log.info("claimed", attempt=claim.attempt, frames=len(claim.frames))
    if claim.recovery_seconds is not None:
        metrics.record(metrics.RECOVERY_SECONDS, claim.recovery_seconds)
    started = time.monotonic()
    kept = Lease(claim)
    recorded, well = 0, True
    try:
        with kept as lease:
            record = work(lease)
            due = _write(record, lease.check)
        recorded = lease.wanted
        _failed.clear()
        health.succeeded()
        seconds = time.monotonic() - started
        metrics.record(metrics.CHUNK_SECONDS, seconds, kind=claim.kind)
        log.info("done", seconds=round(seconds, 3))
    except StoreBusyError as error:  # it may well fail each time, as one that takes too long does, so it counts
        _attempt_failed(claim, error)
        return False
    except (Stopping, StoreUnavailableError) as cause:
        well = False
        due = _give_up(claim, lambda session: leases.release(session, claim))
        log.info("given back", cause=type(cause).__name__)
        tracing.failed("given back")
    except RendererBusyError as busy:
        seconds = busy.retry_after
        _give_up(claim, lambda session: leases.release(session, claim, seconds))
        log.warning("given back", cause=type(busy).__name__, reason=str(busy), due_in=seconds)
        tracing.failed("given back")
        _claim_nothing(seconds)
        return False
    except LeaseLostError:
        due, well = None, False
        log.warning("dropped, because the lease is lost")
        tracing.failed("the lease was lost")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported and logged
        _attempt_failed(claim, error)
        return False
    finally:
        if kept.rendered:
            metrics.record(metrics.FRAMES_RENDERED, recorded)
            metrics.record(metrics.FRAMES_WASTED, kept.rendered - recorded)
    if due is not None:
        celery_app.publish(*due)
    return well


def _attempt_failed(claim: Claim, error: Exception) -> None:
    """Report that an attempt failed, and note against whom that tells: the walk, this process or this worker."""
    log.exception("attempt failed", attempt=claim.attempt)
    reason = f"{type(error).__name__}: {error}"
    tracing.failed(reason)
    deterministic = isinstance(error, DETERMINISTIC)
    _give_up(claim, lambda session: leases.attempt_failed(session, claim, reason, deterministic=deterministic))
    if deterministic:
        return  # the walk is at fault
    _failed.add(claim.walk_id)
    health.failed(claim.kind, reason)
    if len(_failed) > 1:
        log.error("this process fails again and again, so it ends")
        raise SystemExit(1) from error


def _claim_nothing(seconds: float) -> None:
    """Keep this process from the next chunk for a while, since that would fare no better."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(min(seconds, 0.2))


def _give_up(claim: Claim, report: Callable[[Session], object]) -> Ready | None:
    """Report that a chunk was not done; returns it as due again, or None if it is no longer ours."""
    try:
        _write(report)
    except LeaseLostError:
        log.warning("already taken by somebody else")
        return None
    except StoreUnavailableError as error:
        log.warning("not reported; the lease will run out", reason=str(error))
        return None
    return Ready(claim.kind)


def _write(write: Callable[[Session], T], check: Callable[[], None] = lambda: None) -> T:
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
