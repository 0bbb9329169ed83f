"""Queue statistics for operators: counts of chunks and walks, and how long the oldest chunk waits."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from momalisa.db.models import GONE, Chunk, KnownModel, Walk
from momalisa.domain.states import ACTIVE, ENDED, ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import fairness, leases, workers
from momalisa.settings import settings


@dataclass(frozen=True)
class QueueStats:
    """The state of the queue at one moment; empty statuses count 0."""

    chunks: dict[tuple[ChunkKind, str, ChunkStatus], int]
    """Queued and leased chunks, by kind and the model that they need."""
    oldest_due_seconds: dict[tuple[ChunkKind, str], float]
    """Seconds since the oldest queued chunk became due, by kind and model."""
    paused: bool
    """Whether an operator has paused all claims."""
    walks: dict[WalkStatus, int]
    """Active walks."""
    walks_last_hour: dict[WalkStatus, int]
    """Walks that ended within the last hour and have not been purged."""
    to_remove: int
    """Deleted and expired walks whose objects and rows are still there."""
    workers: dict[tuple[ChunkKind, str], int]
    """Workers that were seen within LEASE_SECONDS, by kind and model."""


def collect(session: Session) -> QueueStats:
    """Count active chunks and walks, and walks that ended recently.

    Each query reads a partial index of the rows that it counts, so the cost does not grow with finished work.
    """
    waited = func.extract("epoch", func.now() - func.min(Chunk.scheduled_at).filter(leases.is_due()))
    needs = [(ChunkKind.RENDER, model) for model in models(session)] + [(ChunkKind.ASSEMBLE, fairness.NO_MODEL)]
    numbers = {(*need, status): 0 for need in needs for status in (ChunkStatus.QUEUED, ChunkStatus.LEASED)}
    oldest = dict.fromkeys(needs, 0.0)
    by = (Chunk.kind, Chunk.model)
    queued = select(*by, func.count(), waited).where(Chunk.status == ChunkStatus.QUEUED).group_by(*by)
    for kind, model, number, seconds in session.execute(queued):
        numbers[kind, model, ChunkStatus.QUEUED] = number
        oldest[kind, model] = max(0.0, float(seconds or 0))  # negative if the clock was set back
    leased = select(*by, func.count()).where(Chunk.status == ChunkStatus.LEASED).group_by(*by)
    for kind, model, number in session.execute(leased):
        numbers[kind, model, ChunkStatus.LEASED] = number
    active = select(Walk.status, func.count()).where(Walk.finished_at.is_(None)).group_by(Walk.status)
    recent = Walk.finished_at > func.now() - timedelta(hours=1)
    ended = select(Walk.status, func.count()).where(recent, Walk.purged_at.is_(None)).group_by(Walk.status)
    walks, last_hour = dict.fromkeys(ACTIVE, 0), dict.fromkeys(ENDED, 0)
    for counts, query in ((walks, active), (last_hour, ended)):
        for status, number in session.execute(query):
            counts[status] = number
    paused = bool(session.scalar(select(leases.paused())))
    to_remove = session.scalar(select(func.count()).select_from(Walk).where(text(f"({GONE})"))) or 0
    alive = {**dict.fromkeys(needs, 0), **workers.count_alive(session)}
    return QueueStats(numbers, oldest, paused, walks, last_hour, to_remove, alive)


def models(session: Session) -> list[str]:
    """Return the names of all models that chunks may need: those that workers have or had, and the default one."""
    return sorted({*session.scalars(select(KnownModel.name)), settings().model_name})


def count_ready(session: Session) -> dict[tuple[ChunkKind, str], int]:
    """Return the number of chunks of each kind and model that could be claimed now."""
    counts = session.execute(
        select(Chunk.kind, Chunk.model, func.count().label("due"))
        .where(Chunk.status == ChunkStatus.QUEUED, leases.is_due(), ~leases.paused())
        .group_by(Chunk.kind, Chunk.model)
    )
    return {(row.kind, row.model): row.due for row in counts}


def done_within(session: Session, kind: ChunkKind, seconds: float) -> bool:
    """Return whether any worker of this one's model has finished a chunk of a kind within the last `seconds`."""
    model = settings().model_name if kind == ChunkKind.RENDER else fairness.NO_MODEL
    done = select(Chunk.number).where(Chunk.kind == kind, Chunk.model == model, Chunk.status == ChunkStatus.DONE)
    recent = done.where(Chunk.finished_at > func.now() - timedelta(seconds=seconds))
    return bool(session.scalar(select(recent.exists())))
