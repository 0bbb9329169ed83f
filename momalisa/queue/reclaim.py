"""Reclaiming expired leases, timed by the reconciler: changes of PostgreSQL's clock or a freeze end no lease.

A reconciler remembers when it first saw each lease in its current state. A lease has expired when LEASE_SECONDS
have passed without a heartbeat, by the monotonic clock, and only if PostgreSQL answered all that time: no worker
can send a heartbeat to a database that is frozen, cut off or failing over. So a reconciler that has just started
waits for LEASE_SECONDS before it reclaims anything, and several reconcilers need not agree.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.errors import StoreBusyError
from momalisa.queue import leases, lifecycle
from momalisa.settings import settings
from momalisa.telemetry.logging import logger

log = logger(__name__)

LEASE_EXPIRED = "no heartbeat: the worker was killed with its machine or container, or cut off from the database"
"""Error of the attempt. If only a child process died, its successor reports how it ended instead."""


class ObservedLease(NamedTuple):
    """A lease in one state; every heartbeat changes `expires_at`."""

    walk_id: UUID
    number: int
    kind: ChunkKind
    token: UUID
    expires_at: datetime
    """Compared for equality only."""


class ExpiredLease(NamedTuple):
    """A lease that has expired."""

    lease: ObservedLease
    overdue_seconds: float
    """Seconds since it expired."""


class LeaseMonitor:
    """Watches all leases on behalf of one reconciler."""

    def __init__(self) -> None:
        self._since: dict[ObservedLease, float] = {}
        self._answered: float | None = None

    def observe(self, leased: Collection[ObservedLease], now: float) -> list[ExpiredLease]:
        """Update the known leases, and return those that have expired.

        Args:
            leased: all current leases, as just read from PostgreSQL.
            now: monotonic seconds.
        """
        longest_gap = 2 * settings().reconcile_seconds  # tolerates one failed round, or a slow query
        if self._answered is None or now - self._answered > longest_gap:
            self._since.clear()
        self._answered = now
        self._since = {each: self._since.get(each, now) for each in leased}
        limit = settings().lease_seconds
        return [
            ExpiredLease(each, now - since - limit) for each, since in self._since.items() if now - since > limit
        ]


def current_leases(session: Session) -> list[ObservedLease]:
    """Return all current leases."""
    columns = (Chunk.walk_id, Chunk.number, Chunk.kind, Chunk.lease_token, Chunk.lease_expires_at)
    leased = session.execute(select(*columns).where(Chunk.status == ChunkStatus.LEASED))
    return [ObservedLease._make(row) for row in leased]


def reclaim(expired: Sequence[ExpiredLease]) -> int:
    """Put the chunks of expired leases back into the queue, and return how many were still leased.

    A chunk without attempts left fails its walk instead. Each chunk has its own transaction. One that another
    transaction has locked is left for the next round, so that it delays no other.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
    """
    reclaimed = 0
    for lease, overdue_seconds in expired:
        try:
            with transaction() as session:
                reclaimed += _reclaim_one(session, lease, overdue_seconds)
        except StoreBusyError as error:
            log.warning("lease not reclaimed yet", walk=str(lease.walk_id), chunk=lease.number, reason=str(error))
    return reclaimed


def _reclaim_one(session: Session, lease: ObservedLease, overdue_seconds: float) -> bool:
    still_leased = and_(
        Chunk.walk_id == lease.walk_id,
        Chunk.number == lease.number,
        Chunk.status == ChunkStatus.LEASED,
        Chunk.lease_token == lease.token,
        Chunk.lease_expires_at == lease.expires_at,
    )
    attempts = session.scalars(select(Chunk.attempts).where(still_leased)).one_or_none()
    exhausted = attempts is not None and attempts >= settings().max_attempts
    if exhausted:
        lifecycle.lock_chunks(session, lease.walk_id)  # all of them, by number, since the walk fails
    mine = select(Chunk.number).where(still_leased).with_for_update(skip_locked=True)
    if session.scalars(mine).one_or_none() is None:
        return False
    session.execute(
        update(Chunk)
        .where(still_leased)
        .values(
            **lifecycle.release_values(ChunkStatus.FAILED if exhausted else ChunkStatus.QUEUED),
            **leases.failure_values(LEASE_EXPIRED),
            scheduled_at=func.now(),
            lease_lost_at=func.now() - timedelta(seconds=overdue_seconds),
        )
    )
    if exhausted:
        lifecycle.fail_walk(session, lease.walk_id, lease.kind)
    return True
