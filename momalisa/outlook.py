"""What lies ahead of a walk: its place in the queue, and how long it will take."""

from dataclasses import dataclass
from datetime import timedelta
from math import ceil, log2
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa import turns, workers
from momalisa.settings import settings
from momalisa.tables import Chunk, ChunkKind, ChunkStatus, Frame, Pause, Walk, WalkStatus

RECENT_CHUNKS = 30
"""The pace is that of so many chunks, if they were done within the last hour."""


@dataclass(frozen=True)
class Outlook:
    """What lies ahead of a walk."""

    queue_position: int | None
    """Chunks of anybody that would be claimed before its first if no more came; None once it has started."""
    eta_seconds: int | None
    """Time until its last frame, None if nothing is known."""
    waiting_for: str | None = None
    """What has to come before it can go on, in a sentence; None if nothing has to."""


@dataclass(frozen=True)
class Pace:
    """How fast walks are rendered here; time that chunks waited for others is left out."""

    speed: float
    """Frames × pixels × steps that one worker makes in a second."""
    workers: int
    batch: int
    """Frames that a worker renders at once."""


def pace(session: Session) -> Pace | None:
    """Return the pace of the last hour for the model that walks are made for, or None if nothing is known."""
    seconds = _seconds_per_weight(session, settings().model_name)
    if not seconds:
        return None
    there = session.execute(workers.count(settings().model_name)).scalar_one()
    batch = settings().batch_size
    return Pace(speed=batch / seconds, workers=max(there, 1), batch=batch)


def look(session: Session, walk: Walk) -> Outlook:
    """Return where a walk stands in the queue, and how long it will take at the pace of the last hour."""
    mine = and_(Chunk.walk_id == walk.id, Chunk.kind == ChunkKind.RENDER)
    left = session.execute(
        select(
            func.max(Chunk.owner).label("party"),
            func.count().filter(Chunk.status == ChunkStatus.QUEUED).label("queued"),
            func.max(Chunk.turn).filter(Chunk.status == ChunkStatus.QUEUED).label("last"),
            func.min(_elapsed()).filter(Chunk.status == ChunkStatus.LEASED).label("elapsed"),
        ).where(mine, Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]))
    ).one()
    if left.party is None:
        return Outlook(None, None)
    there, paused = session.execute(
        select(workers.count(walk.model).scalar_subquery(), select(Pause.since).exists())
    ).one()
    return Outlook(
        queue_position=_position(session, walk) if walk.status == WalkStatus.QUEUED else None,
        eta_seconds=_eta(session, walk, left.party, left.queued, left.last, left.elapsed, there),
        waiting_for=_waiting_for(walk.model, there, paused=paused),
    )


def _waiting_for(model: str, there: int, *, paused: bool) -> str | None:
    if paused:
        return "The queue is paused; the walk waits until it goes on."
    return None if there else f"No worker with the model {model} is running; the walk waits for one."


def _position(session: Session, walk: Walk) -> int:
    """Return how many chunks come before the first of a walk: one index is read, as far as that."""
    queued = and_(Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.model == walk.model)
    first = select(*turns.ORDER).where(queued, Chunk.walk_id == walk.id).order_by(*turns.ORDER).limit(1)
    place = session.execute(first).one_or_none()
    if place is None:
        return 0
    ahead = select(func.count()).where(queued, tuple_(*turns.ORDER) < tuple(place))
    return session.execute(ahead).scalar_one()


def _eta(
    session: Session,
    walk: Walk,
    party: str,
    queued: int,
    last: int | None,
    elapsed: float | None,
    there: int,
) -> int | None:
    """Return the seconds until the last frame of a walk, or None if no chunk was done of late.

    Parties take turns chunk by chunk. So before the n-th chunk of this one, every other has had n of its own done,
    or all that it has; a walk that is not planned to its end will draw its further turns then. The chunks before
    the last one are shared out between the workers that are there, and the last one takes its own time.

    Args:
        session: of the caller.
        walk: whose time it is.
        party: that takes turns for the walk.
        queued: chunks of the walk that wait.
        last: turn of the last of them.
        elapsed: seconds for which the last chunk of the walk is held by now that a worker began with, if one is.
        there: workers that have its model.
    """
    pace = _seconds_per_weight(session, walk.model)
    if pace is None:
        return None
    weight = walk.spec.steps * walk.spec.width * walk.spec.height
    own = pace * weight
    planned = session.execute(select(func.count()).where(Frame.walk_id == walk.id)).scalar_one()
    if not queued and planned == walk.frames_total:
        return ceil(max(own - float(elapsed or 0), 1))
    others = and_(
        *(Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.owner == party),
        *(Chunk.model == walk.model, Chunk.walk_id != walk.id),
    )
    if planned == walk.frames_total:
        others = and_(others, Chunk.turn < last)
    before_in_party = session.execute(select(func.count()).where(others)).scalar_one()
    unplanned = ceil((walk.frames_total - planned) / settings().batch_size)
    n = before_in_party + queued + unplanned
    held = _held(session, walk.model)
    at_work = ahead = 0.0
    for owner, chunks, heavy in _loads(session, walk.model):
        count, seconds = held.get(owner, (0, 0.0))
        each = pace * heavy / chunks
        at_work += max(each * count - seconds, 0)
        if owner != party:
            ahead += each * min(max(chunks - count, 0), n - 0.5)  # it is half a turn ahead or behind
    before = at_work + ahead + own * (n - 1)
    working = max(there, sum(count for count, _ in held.values()), 1)
    passes = ceil(log2(walk.frames_total / planned)) if planned else 0
    return ceil(max(before / working + own, own * (bool(queued) + passes)))


def _held(session: Session, model: str) -> dict[str, tuple[int, float]]:
    """Return how many chunks of each party workers have in hand, and for how many seconds in all."""
    held = select(Chunk.owner, func.count(), func.sum(_elapsed())).where(
        Chunk.status == ChunkStatus.LEASED, Chunk.kind == ChunkKind.RENDER, Chunk.model == model
    )
    return {owner: (count, float(seconds)) for owner, count, seconds in session.execute(held.group_by(Chunk.owner))}


def _loads(session: Session, model: str) -> list[tuple[str, int, int]]:
    """Return what each party has before it: its name, chunks, and their weight; those not planned yet, too."""
    at_work = (
        select(Chunk.owner, Chunk.walk_id)
        .where(
            Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]),
            Chunk.kind == ChunkKind.RENDER,
            Chunk.model == model,
        )
        .distinct()
        .subquery()
    )
    size = settings().batch_size
    chunks = (Walk.frames_total - Walk.frames_done + size - 1).op("/")(size)
    loads = (
        select(at_work.c.owner, func.sum(chunks), func.sum(chunks * _weight()))
        .join(Walk, Walk.id == at_work.c.walk_id)
        .group_by(at_work.c.owner)
    )
    return [(owner, int(count), int(weight)) for owner, count, weight in session.execute(loads) if count]


def _elapsed() -> ColumnElement[Any]:
    """Return the seconds since a chunk was claimed."""
    return func.extract("epoch", func.now() - Chunk.claimed_at)


def _weight() -> ColumnElement[Any]:
    """Return how heavy the chunks of a walk are: pixels × steps."""
    spec = type_coerce(Walk.spec, JSONB)
    steps, width, height = (spec[name].as_integer() for name in ("steps", "width", "height"))
    weight: ColumnElement[Any] = steps * width * height
    return weight


def _seconds_per_weight(session: Session, model: str) -> float | None:
    """Return the time that a worker with a model needs for a chunk by its weight, as it was of late, or None."""
    recent = (
        select(
            func.extract("epoch", Chunk.finished_at - Chunk.claimed_at).label("seconds"), _weight().label("weight")
        )
        .join(Walk, Walk.id == Chunk.walk_id)
        .where(
            Chunk.status == ChunkStatus.DONE,
            Chunk.kind == ChunkKind.RENDER,
            Chunk.model == model,
            Chunk.finished_at > func.now() - timedelta(hours=1),
        )
        .order_by(Chunk.finished_at.desc())
        .limit(RECENT_CHUNKS)
        .subquery()
    )
    mean = session.execute(select(func.sum(recent.c.seconds) / func.sum(recent.c.weight))).scalar()
    return None if mean is None else float(mean)
