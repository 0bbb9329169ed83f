"""What lies ahead of a walk: its place in the queue, and how long it will take."""

from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from sqlalchemy import and_, func, literal, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa import turns, workers
from momalisa.settings import settings
from momalisa.tables import Chunk, ChunkKind, ChunkStatus, Frame, Walk, WalkStatus

MANY = 1000
"""Places in the queue are counted up to this."""

RECENT_CHUNKS = 30
"""The pace is that of so many chunks, if they were done within the last hour."""


@dataclass(frozen=True)
class Outlook:
    """What lies ahead of a walk."""

    queue_position: int | None
    """Chunks of anybody that will be claimed before its first; None once it has started. At most 1,000."""
    eta_seconds: int | None
    """Time until its last frame, None if nothing is known."""
    waiting_for: str | None = None
    """What has to come before it can go on, in a sentence; None if nothing has to."""


def look(session: Session, walk: Walk) -> Outlook:
    """Return where a walk stands in the queue, and how long it will take at the pace of the last hour."""
    mine = and_(Chunk.walk_id == walk.id, Chunk.kind == ChunkKind.RENDER)
    left = session.execute(
        select(func.count()).where(mine, Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]))
    ).scalar_one()
    if not left:
        return Outlook(None, None)
    planned = session.execute(select(func.count()).where(Frame.walk_id == walk.id)).scalar_one()
    left += ceil((walk.frames_total - planned) / settings().batch_size)
    order = turns.ORDER
    queued = and_(Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.model == walk.model)
    ahead = 0
    if walk.status == WalkStatus.QUEUED:
        place = session.execute(select(*order).where(mine, queued).order_by(*order).limit(1)).one_or_none()
        if place is not None:
            before = select(literal(1)).where(queued, tuple_(*order) < tuple(place)).limit(MANY).subquery()
            ahead = session.execute(select(func.count()).select_from(before)).scalar_one()
    seconds = _seconds_per_chunk(session, walk)
    there = session.execute(workers.count(walk.model)).scalar_one()
    return Outlook(
        queue_position=ahead if walk.status == WalkStatus.QUEUED else None,
        eta_seconds=None if seconds is None else ceil((ahead + left) * seconds),
        waiting_for=None if there else f"No worker with the model {walk.model} is running; the walk waits for one.",
    )


def _seconds_per_chunk(session: Session, walk: Walk) -> float | None:
    """Return the time that all workers together need for a chunk as heavy as this walk's, or None if unknown.

    The weight of a chunk is its pixels × steps.
    """
    spec = type_coerce(Walk.spec, JSONB)
    weight = spec["steps"].as_integer() * spec["width"].as_integer() * spec["height"].as_integer()
    recent = (
        select(func.extract("epoch", Chunk.finished_at - Chunk.claimed_at).label("seconds"), weight.label("weight"))
        .join(Walk, Walk.id == Chunk.walk_id)
        .where(
            Chunk.status == ChunkStatus.DONE,
            Chunk.kind == ChunkKind.RENDER,
            Chunk.finished_at > func.now() - timedelta(hours=1),
        )
        .order_by(Chunk.finished_at.desc())
        .limit(RECENT_CHUNKS)
        .subquery()
    )
    mean = select(func.sum(recent.c.seconds) / func.sum(recent.c.weight))
    per_weight = session.execute(mean).scalar()
    if per_weight is None:
        return None
    working = session.execute(
        select(func.count()).where(Chunk.status == ChunkStatus.LEASED, Chunk.kind == ChunkKind.RENDER)
    ).scalar_one()
    return float(per_weight) * walk.spec.steps * walk.spec.width * walk.spec.height / max(working, 1)
