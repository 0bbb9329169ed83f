"""Working under a lease: claim a chunk, keep it by heartbeats, record the result, or give it up cleanly."""

import contextvars
import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from momalisa import chunks, queue
from momalisa.chunks import Claim
from momalisa.database import transaction
from momalisa.errors import LeaseLostError, StoreUnavailableError
from momalisa.log import logger
from momalisa.settings import settings
from momalisa.tables import ChunkKind

log = logger(__name__)

T = TypeVar("T")

Check = Callable[[], None]
"""Raises when the work should end: LeaseLostError or Stopping. Cheap; call it often."""

Record = Callable[[Session], ChunkKind | None]
"""Writes the result of some work; returns the kind of chunk that waits because of it, if one does."""

PATIENCE_SECONDS = 300
"""How long a finished result is held while the database is away."""

_stop = mmap.mmap(-1, 1)  # one byte that is shared with the children that Celery forks; no lock to die with


class Stopping(Exception):  # noqa: N818
    """This worker was told to stop."""


def stop() -> None:
    """Tell this process and its children to claim nothing more and to give back what they have."""
    _stop[0] = 1


def stopping() -> bool:
    """Tell whether this worker was told to stop."""
    return _stop[0] != 0


def run(kind: ChunkKind, work: Callable[[Claim, Check], Record]) -> None:
    """Claim the best chunk of a kind, do the work, and record it; return at once if there is nothing to do."""
    if stopping():
        return
    try:
        with transaction() as session:
            claim = chunks.claim(session, kind)
    except StoreUnavailableError as error:
        log.warning("nothing claimed", reason=str(error))
        return
    if claim is None:
        log.info("nothing to do", kind=kind)
        return
    with structlog.contextvars.bound_contextvars(walk=str(claim.walk_id), chunk=claim.number, kind=kind):
        _run(claim, work)


def _run(claim: Claim, work: Callable[[Claim, Check], Record]) -> None:
    log.info("claimed", attempt=claim.attempt, frames=len(claim.frames))
    started = time.monotonic()
    try:
        with _kept(claim) as check:
            next_kind = _write(work(claim, check))
        log.info("done", seconds=round(time.monotonic() - started, 3))
    except Stopping:
        next_kind = _give_up(claim, lambda session: chunks.give_back(session, claim))
        log.info("given back")
    except LeaseLostError:
        next_kind = None
        log.warning("dropped, because the lease is lost")
    except Exception as error:
        log.exception("attempt failed", attempt=claim.attempt)
        reason = f"{type(error).__name__}: {error}"
        next_kind = _give_up(claim, lambda session: chunks.attempt_failed(session, claim, reason))
    if next_kind is not None:
        queue.publish(next_kind)


def _give_up(claim: Claim, report: Callable[[Session], object]) -> ChunkKind | None:
    """Report that a chunk was not done; returns its kind, for a permit, or None if it is no longer ours."""
    try:
        _write(report)
    except LeaseLostError:
        log.warning("already taken by somebody else")
        return None
    except StoreUnavailableError as error:
        log.warning("not reported; the lease will run out", reason=str(error))
        return None
    return claim.kind


def _write(write: Callable[[Session], T]) -> T:
    """Write in a transaction of its own, again and again while the database is away.

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


@contextmanager
def _kept(claim: Claim) -> Iterator[Check]:
    """Send heartbeats for a claimed chunk until the block ends; gives the check that the work must call."""
    ended = threading.Event()
    lost = threading.Event()

    def beat() -> None:
        while not ended.wait(settings().lease_seconds / 3):
            try:
                with transaction() as session:
                    chunks.heartbeat(session, claim)
            except LeaseLostError:
                lost.set()
                return
            except StoreUnavailableError as error:
                log.warning("heartbeat not sent", reason=str(error))

    def check() -> None:
        if stopping():
            raise Stopping
        if lost.is_set():
            raise LeaseLostError(f"Chunk {claim.number} of walk {claim.walk_id} is no longer ours.")

    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
