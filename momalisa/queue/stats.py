"""Queue statistics for operators: counts of chunks and walks, and how long the oldest chunk waits."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from momalisa.db.models import GONE, Chunk, Walk
from momalisa.domain.states import ACTIVE, ENDED, ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import leases, workers


@dataclass(frozen=True)
class QueueStats:
    """The state of the queue at one moment; empty statuses count 0."""

    chunks: dict[tuple[ChunkKind, ChunkStatus], int]
    """Queued and leased chunks."""
    oldest_due_seconds: dict[ChunkKind, float]
    """Seconds since the oldest queued chunk of each kind became due."""
    paused: bool
    """Whether an operator has paused all claims."""
    walks: dict[WalkStatus, int]
    """Active walks."""
    walks_last_hour: dict[WalkStatus, int]
    """Walks that ended within the last hour and have not been purged."""
    to_remove: int
    """Deleted and expired walks whose objects and rows are still there."""
    workers: dict[ChunkKind, int]
    """Workers that were seen within LEASE_SECONDS."""


def collect(session: Session) -> QueueStats:
    """Count active chunks and walks, and walks that ended recently.

    Each query reads a partial index of the rows that it counts, so the cost does not grow with finished work.
    """
    waited = func.extract("epoch", func.now() - func.min(Chunk.scheduled_at).filter(leases.is_due()))
    numbers = {(kind, status): 0 for kind in ChunkKind for status in (ChunkStatus.QUEUED, ChunkStatus.LEASED)}
    oldest = dict.fromkeys(ChunkKind, 0.0)
    queued = select(Chunk.kind, func.count(), waited).where(Chunk.status == ChunkStatus.QUEUED).group_by(Chunk.kind)
    for kind, number, seconds in session.execute(queued):
        numbers[kind, ChunkStatus.QUEUED] = number
        oldest[kind] = max(0.0, float(seconds or 0))  # negative if the clock was set back
    leased = select(Chunk.kind, func.count()).where(Chunk.status == ChunkStatus.LEASED).group_by(Chunk.kind)
    for kind, number in session.execute(leased):
        numbers[kind, ChunkStatus.LEASED] = number
    active = select(Walk.status, func.count()).where(Walk.finished_at.is_(None)).group_by(Walk.status)
    recent = Walk.finished_at > func.now() - timedelta(hours=1)
    ended = select(Walk.status, func.count()).where(recent, Walk.purged_at.is_(None)).group_by(Walk.status)
    walks, last_hour = dict.fromkeys(ACTIVE, 0), dict.fromkeys(ENDED, 0)
    for counts, query in ((walks, active), (last_hour, ended)):
        for status, number in session.execute(query):
            counts[status] = number
    paused = bool(session.scalar(select(leases.paused())))
    to_remove = session.scalar(select(func.count()).select_from(Walk).where(text(f"({GONE})"))) or 0
    return QueueStats(numbers, oldest, paused, walks, last_hour, to_remove, workers.count_by_kind(session))


def count_ready(session: Session) -> dict[ChunkKind, int]:
    """Return the number of chunks of each kind that could be claimed now."""
    counts = session.execute(
        select(Chunk.kind, func.count().label("due"))
        .where(Chunk.status == ChunkStatus.QUEUED, leases.is_due(), ~leases.paused())
        .group_by(Chunk.kind)
    )
    return {row.kind: row.due for row in counts}


def done_within(session: Session, kind: ChunkKind, seconds: float) -> bool:
    """Return whether any worker has finished a chunk of a kind within the last `seconds`."""
    done = select(Chunk.number).where(Chunk.kind == kind, Chunk.status == ChunkStatus.DONE)
    recent = done.where(Chunk.finished_at > func.now() - timedelta(seconds=seconds))
    return bool(session.scalar(select(recent.exists())))
