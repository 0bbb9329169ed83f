"""Leases that run out, by the clock of who looks at them: neither PostgreSQL's clock nor a freeze ends one.

A reconciler remembers since when each lease has been as it is. It is lost when a whole lease has passed without a
heartbeat, by the monotonic clock, and only if PostgreSQL answered all that while: no worker can send a heartbeat to
a database that is frozen, cut off or on its way to another machine. So a reconciler that was just started waits for
as long as a lease before it takes anything back, and several of them need not agree.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.queue import chunks
from momalisa.settings import settings

VANISHED = "its worker fell silent: killed as a whole, with its machine or container, or cut off from the database"
"""When only the process ended that worked, the next one knows better (`worker.ending`)."""


class HeldLease(NamedTuple):
    """A lease as it was seen; every heartbeat makes another one of it."""

    walk_id: UUID
    number: int
    kind: ChunkKind
    token: UUID
    expires_at: datetime
    """Changes with every heartbeat. What time it says does not matter."""


class LostLease(NamedTuple):
    """A lease that ran out."""

    held: HeldLease
    overdue_seconds: float
    """How long ago."""


class LeaseMonitor:
    """What one reconciler has seen of all leases."""

    def __init__(self) -> None:
        self._since: dict[HeldLease, float] = {}
        self._answered: float | None = None

    def look(self, held: Collection[HeldLease], now: float) -> list[LostLease]:
        """Take note of the leases that there are, and return those that ran out.

        Args:
            held: all leases, as PostgreSQL has just listed them.
            now: monotonic seconds.
        """
        longest_gap = 2 * settings().reconcile_seconds  # one skipped round is none, nor is a slow answer
        if self._answered is None or now - self._answered > longest_gap:
            self._since.clear()
        self._answered = now
        self._since = {each: self._since.get(each, now) for each in held}
        lease = settings().lease_seconds
        return [LostLease(each, now - since - lease) for each, since in self._since.items() if now - since > lease]


def held(session: Session) -> list[HeldLease]:
    """Return all leases that there are."""
    columns = (Chunk.walk_id, Chunk.number, Chunk.kind, Chunk.lease_token, Chunk.lease_expires_at)
    leased = session.execute(select(*columns).where(Chunk.status == ChunkStatus.LEASED))
    return [HeldLease._make(row) for row in leased]


def reclaim(session: Session, lost: Sequence[LostLease]) -> int:
    """Put chunks back into the queue whose lease ran out, and return how many were still held.

    One that was tried as often as it may fails its walk instead.
    """
    return sum(_take_back(session, *each) for each in sorted(lost))  # rows are locked in the order of `chunks`


def _take_back(session: Session, lease: HeldLease, overdue_seconds: float) -> bool:
    still_held = and_(
        Chunk.walk_id == lease.walk_id,
        Chunk.number == lease.number,
        Chunk.status == ChunkStatus.LEASED,
        Chunk.lease_token == lease.token,
        Chunk.lease_expires_at == lease.expires_at,
    )
    chunks.lock_chunks(session, lease.walk_id)  # all of them, in their order: one that is hopeless ends them all
    attempts = session.scalars(select(Chunk.attempts).where(still_held)).one_or_none()
    if attempts is None:
        return False
    hopeless = attempts >= settings().max_attempts
    taken = session.execute(
        update(Chunk)
        .where(still_held)
        .values(
            **chunks.release_values(ChunkStatus.FAILED if hopeless else ChunkStatus.QUEUED),
            **chunks.failed_attempt(VANISHED),
            scheduled_at=func.now(),
            lease_lost_at=func.now() - timedelta(seconds=overdue_seconds),
        )
    )
    if not chunks.rowcount(taken):
        return False
    if hopeless:
        chunks.fail_walk(session, lease.walk_id, lease.kind)
    return True
