"""How much there is of what, for operators: what only PostgreSQL knows, whoever asks."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk, Walk
from momalisa.domain.states import ACTIVE, ENDED, ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import chunks


@dataclass(frozen=True)
class QueueStats:
    """What there was at one moment; what there was none of is 0."""

    chunks: dict[tuple[ChunkKind, ChunkStatus], int]
    """That are queued or leased."""
    oldest_due_seconds: dict[ChunkKind, float]
    """How long the chunk of each kind has been due that was due first."""
    paused: bool
    """Whether an operator has stopped all claims."""
    walks: dict[WalkStatus, int]
    """That are not over."""
    walks_last_hour: dict[WalkStatus, int]
    """That ended within the last hour, and are still kept."""


def collect(session: Session) -> QueueStats:
    """Count what is waited for and worked on; what is long over is not touched, however much there is of it.

    Each query reads a partial index of the rows that it counts.
    """
    waited = func.extract("epoch", func.now() - func.min(Chunk.scheduled_at).filter(chunks.is_due()))
    numbers = {(kind, status): 0 for kind in ChunkKind for status in (ChunkStatus.QUEUED, ChunkStatus.LEASED)}
    oldest = dict.fromkeys(ChunkKind, 0.0)
    queued = select(Chunk.kind, func.count(), waited).where(Chunk.status == ChunkStatus.QUEUED).group_by(Chunk.kind)
    for kind, number, seconds in session.execute(queued):
        numbers[kind, ChunkStatus.QUEUED] = number
        oldest[kind] = max(0.0, float(seconds or 0))  # due before the clock was set back
    leased = select(Chunk.kind, func.count()).where(Chunk.status == ChunkStatus.LEASED).group_by(Chunk.kind)
    for kind, number in session.execute(leased):
        numbers[kind, ChunkStatus.LEASED] = number
    active = select(Walk.status, func.count()).where(Walk.finished_at.is_(None)).group_by(Walk.status)
    recent = Walk.finished_at > func.now() - timedelta(hours=1)
    ended = select(Walk.status, func.count()).where(recent, Walk.purged_at.is_(None)).group_by(Walk.status)
    walks, last_hour = dict.fromkeys(ACTIVE, 0), dict.fromkeys(ENDED, 0)
    for counts, query in ((walks, active), (last_hour, ended)):
        for where, number in session.execute(query):
            counts[where] = number
    paused = bool(session.scalar(select(chunks.paused())))
    return QueueStats(numbers, oldest, paused, walks, last_hour)
