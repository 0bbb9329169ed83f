"""What lies ahead of a walk: its place in the queue, and how long it will take.

What all chunks that wait for one model add up to is read by one pass over them. It serves all looks of this process
for so long that these passes take a small share of the time, however long the queue is. All else is a few rows.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, log2
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk, Frame, Pause, Walk
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import fairness, workers
from momalisa.settings import settings

RECENT_CHUNKS = 30
"""The pace is that of so many chunks, if they were done within the last hour."""


KEPT = 20
"""What was read of a whole line serves for so many times as long as it took to read it."""


class Waiting(NamedTuple):
    """What one of those who take turns has before it of one model."""

    owner: str
    lost: int
    """Its queued chunks that were in a worker's hands before: they come first."""
    first: int
    """Turn of the first of its other queued chunks, which follow each other without a gap (`turns`)."""
    queued: int
    """How many these are."""
    held: int
    """Chunks that workers have in hand."""
    held_seconds: float
    """For how long they have, in all."""
    chunks: int
    """All that its walks still need, those not planned yet, too."""
    weight: int
    """Of these."""

    def before(self, virtual_time: int) -> int:
        """Return how many of its queued chunks come before a turn."""
        return self.lost + min(max(virtual_time - self.first, 0), self.queued)


@dataclass(frozen=True)
class Line:
    """All who wait for one model, at one moment."""

    tenants: dict[str, Waiting]
    seconds_per_weight: float | None
    """That a worker needs for a chunk, as it was of late; None if none was done."""


class _Kept(NamedTuple):
    line: Line
    took: float
    until: float
    """Monotonic seconds, like `took`."""


_lines: dict[str, _Kept] = {}
"""By model."""


@dataclass(frozen=True)
class Estimate:
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
    seconds = _line(session, settings().model_name).seconds_per_weight
    if not seconds:
        return None
    there = session.execute(workers.count(settings().model_name)).scalar_one()
    batch = settings().batch_size
    return Pace(speed=batch / seconds, workers=max(there, 1), batch=batch)


def estimate(session: Session, walk: Walk) -> Estimate:
    """Return where a walk stands in the queue, and how long it will take at the pace of the last hour."""
    mine = and_(Chunk.walk_id == walk.id, Chunk.kind == ChunkKind.RENDER)
    left = session.execute(
        select(
            func.max(Chunk.tenant).label("tenant"),
            func.count().filter(Chunk.status == ChunkStatus.QUEUED).label("queued"),
            func.max(Chunk.virtual_time).filter(Chunk.status == ChunkStatus.QUEUED).label("last"),
            func.min(_elapsed()).filter(Chunk.status == ChunkStatus.LEASED).label("elapsed"),
        ).where(mine, Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]))
    ).one()
    if left.tenant is None:
        return Estimate(None, None)
    there, paused = session.execute(
        select(workers.count(walk.model).scalar_subquery(), select(Pause.since).exists())
    ).one()
    return Estimate(
        queue_position=_position(session, walk) if walk.status == WalkStatus.QUEUED else None,
        eta_seconds=_eta(session, walk, left.tenant, left.queued, left.last, left.elapsed, there),
        waiting_for=_waiting_for(walk.model, there, paused=paused),
    )


def _waiting_for(model: str, there: int, *, paused: bool) -> str | None:
    if paused:
        return "The queue is paused; the walk waits until it goes on."
    return None if there else f"No worker with the model {model} is running; the walk waits for one."


def _position(session: Session, walk: Walk) -> int:
    """Return how many chunks come before the first of a walk; those of its own turn, which are few, are counted."""
    queued = and_(Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.model == walk.model)
    first = select(*fairness.ORDER).where(queued, Chunk.walk_id == walk.id).order_by(*fairness.ORDER).limit(1)
    place = session.execute(first).one_or_none()
    if place is None:
        return 0
    level = and_(
        queued,
        Chunk.virtual_time == place.virtual_time,
        Chunk.priority != fairness.LOST,
        tuple_(*fairness.ORDER) < tuple(place),
    )
    ahead = session.execute(select(func.count()).where(level)).scalar_one()
    return int(ahead) + sum(
        tenant.before(place.virtual_time) for tenant in _line(session, walk.model).tenants.values()
    )


def _eta(
    session: Session,
    walk: Walk,
    tenant: str,
    queued: int,
    last: int | None,
    elapsed: float | None,
    there: int,
) -> int | None:
    """Return the seconds until the last frame of a walk, or None if no chunk was done of late.

    Tenants take turns chunk by chunk. So before the n-th chunk of this one, every other has had n of its own done,
    or all that it has; a walk that is not planned to its end will draw its further turns then. The chunks before
    the last one are shared out between the workers that are there, and the last one takes its own time.

    Args:
        session: of the caller.
        walk: whose time it is.
        tenant: that takes turns for the walk.
        queued: chunks of the walk that wait.
        last: turn of the last of them.
        elapsed: seconds for which the last chunk of the walk is held by now that a worker began with, if one is.
        there: workers that have its model.
    """
    line = _line(session, walk.model)
    pace = line.seconds_per_weight
    if pace is None:
        return None
    weight = walk.spec.steps * walk.spec.width * walk.spec.height
    own = pace * weight
    planned = session.execute(select(func.count()).where(Frame.walk_id == walk.id)).scalar_one()
    if not queued and planned == walk.frames_total:
        return ceil(max(own - float(elapsed or 0), 1))
    n = queued
    if mine := line.tenants.get(tenant):  # unless it came since the line was read
        if last is None or planned < walk.frames_total:
            n = max(n, mine.lost + mine.queued)
        else:
            n = max(n, mine.before(last + 1))
    n += ceil((walk.frames_total - planned) / settings().batch_size)
    at_work = ahead = 0.0
    for other in line.tenants.values():
        if not other.chunks:
            continue
        each = pace * other.weight / other.chunks
        at_work += max(each * other.held - other.held_seconds, 0)
        if other.owner != tenant:  # it is half a turn ahead or behind
            ahead += each * min(max(other.chunks - other.held, 0), n - 0.5)
    before = at_work + ahead + own * (n - 1)
    working = max(there, sum(other.held for other in line.tenants.values()), 1)
    passes = ceil(log2(walk.frames_total / planned)) if planned else 0
    return ceil(max(before / working + own, own * (bool(queued) + passes)))


def _line(session: Session, model: str) -> Line:
    """Return all who wait for a model, as they were a moment ago: the longer the line, the longer."""
    known, now = _lines.get(model), time.monotonic()
    if known and now < known.until:
        return known.line
    if known:  # it serves all others while this one reads
        _lines[model] = known._replace(until=now + 2 * known.took)
    line = Line({tenant.owner: tenant for tenant in _tenants(session, model)}, _seconds_per_weight(session, model))
    read = time.monotonic()
    _lines[model] = _Kept(line, read - now, read + KEPT * (read - now))
    return line


def _tenants(session: Session, model: str) -> list[Waiting]:
    """Return all who have chunks of a model queued or at work, or walks with any that need more."""
    waits, at_work = Chunk.status == ChunkStatus.QUEUED, Chunk.status == ChunkStatus.LEASED
    fresh = and_(waits, Chunk.priority != fairness.LOST)
    walks = (
        select(
            Chunk.tenant,
            Chunk.walk_id,
            func.count().filter(waits, Chunk.priority == fairness.LOST).label("lost"),
            func.min(Chunk.virtual_time).filter(fresh).label("first"),
            func.count().filter(fresh).label("queued"),
            func.count().filter(at_work).label("held"),
            func.sum(_elapsed()).filter(at_work).label("held_seconds"),
        )
        .where(or_(waits, at_work), Chunk.kind == ChunkKind.RENDER, Chunk.model == model)
        .group_by(Chunk.tenant, Chunk.walk_id)
        .subquery()
    )
    size = settings().batch_size
    chunks = (Walk.frames_total - Walk.frames_done + size - 1) // size
    found = session.execute(
        select(
            walks.c.owner,
            func.sum(walks.c.lost),
            func.coalesce(func.min(walks.c.first), 0),
            func.sum(walks.c.queued),
            func.sum(walks.c.held),
            func.coalesce(func.sum(walks.c.held_seconds), 0.0),
            func.sum(chunks),
            func.sum(chunks * _weight()),
        )
        .join(Walk, Walk.id == walks.c.walk_id)
        .group_by(walks.c.owner)
    )
    return [
        Waiting(owner, int(lost), first, int(queued), int(held), float(seconds), int(needed), int(weight))
        for owner, lost, first, queued, held, seconds, needed, weight in found
    ]


def _elapsed() -> ColumnElement[Any]:
    """Return the seconds since a chunk was claimed; 0 if PostgreSQL's clock was set back since."""
    elapsed: ColumnElement[Any] = func.greatest(func.extract("epoch", func.now() - Chunk.claimed_at), 0)
    return elapsed


def _weight() -> ColumnElement[Any]:
    """Return how heavy the chunks of a walk are: pixels × steps."""
    spec = type_coerce(Walk.spec, JSONB)
    steps, width, height = (spec[name].as_integer() for name in ("steps", "width", "height"))
    weight: ColumnElement[Any] = steps * width * height
    return weight


def _seconds_per_weight(session: Session, model: str) -> float | None:
    """Return the time that a worker with a model needs for a chunk by its weight, as it was of late, or None.

    It is the median, so that a chunk in the middle of which PostgreSQL's clock was set does not count.
    """
    seconds = func.extract("epoch", Chunk.finished_at - Chunk.claimed_at)
    recent = (
        select((seconds / _weight()).label("pace"))
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
    median = session.execute(select(func.percentile_cont(0.5).within_group(recent.c.pace))).scalar()
    return None if median is None else float(median)
