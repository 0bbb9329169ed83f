"""Estimates of a walk's place in the queue, and of the time until it is done.

The backlogs of all tenants of a model are read by one query over its active chunks. The result is cached for a
multiple of the time that the query took, so that the query costs a small share of the time, however long the queue
is. All other queries read a few rows.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, log2
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, false, func, literal, or_, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa.db.models import Chunk, Frame, KnownModel, Walk
from momalisa.domain import passes
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import fairness, leases, workers
from momalisa.settings import settings

RECENT_CHUNKS = 30
"""The pace is measured over at most this many chunks, done within the last hour."""

CACHE_FACTOR = 20
"""Backlogs are cached for the time that it took to read them, times this."""


class TenantBacklog(NamedTuple):
    """The active chunks of a tenant for one model."""

    tenant: str
    retried: int
    """Queued chunks that were tried before, which are claimed first."""
    first: int
    """Virtual time of the first other queued chunk; the rest follow without a gap (`fairness`)."""
    queued: int
    """Number of these other queued chunks."""
    leased: int
    leased_seconds: float
    """Seconds since the leased chunks were claimed, in all."""
    chunks: int
    """Chunks until its walks are rendered: queued, leased, and those of passes not planned yet."""
    weight: int
    """Weight of all these chunks (`_chunk_weight`)."""

    def queued_before(self, virtual_time: int) -> int:
        """Return how many of its queued chunks come before a virtual time."""
        return self.retried + min(max(virtual_time - self.first, 0), self.queued)


@dataclass(frozen=True)
class Backlog:
    """The active chunks of all tenants for one model, at one moment."""

    tenants: dict[str, TenantBacklog]
    seconds_per_weight: float | None
    """Recent seconds of a worker per unit of weight; None if no chunk was done."""
    is_dense: bool
    """Whether the model is, so that frames of its dense walks may be interpolated (`domain.model.Model.dense`)."""


class _Cached(NamedTuple):
    backlog: Backlog
    took: float
    """Seconds that it took to read."""
    until: float
    """Monotonic seconds."""


_cache: dict[str, _Cached] = {}
"""By model."""


@dataclass(frozen=True)
class Estimate:
    """The place of a walk in the queue, and the time until it is done."""

    queue_position: int | None
    """Chunks of all tenants that will be claimed before its first one, as of now; None once it has started."""
    eta_seconds: int | None
    """Time until its last frame is rendered; None if no pace is known."""
    waiting_for: str | None = None
    """A sentence on what blocks it: a paused queue, or no worker with its model; None if nothing does."""


@dataclass(frozen=True)
class Pace:
    """How fast walks are rendered, without the time in the queue."""

    speed: float
    """Frames × pixels × steps per second of one worker."""
    workers: int
    batch: int
    """Frames in a chunk of a new walk, if they are denoised."""


def pace(session: Session, model: str) -> Pace | None:
    """Return the pace of the last hour for a model, or None if no chunk was done."""
    seconds = _backlog(session, model).seconds_per_weight
    if not seconds:
        return None
    alive = session.execute(workers.count(model)).scalar_one()
    return Pace(speed=1 / seconds, workers=max(alive, 1), batch=settings().batch_size)


def estimate(session: Session, walk: Walk) -> Estimate:
    """Return the estimate of a walk, at the pace of the last hour."""
    mine = and_(Chunk.walk_id == walk.id, Chunk.kind == ChunkKind.RENDER)
    active = session.execute(
        select(
            func.max(Chunk.tenant).label("tenant"),
            func.count().filter(Chunk.status == ChunkStatus.QUEUED).label("queued"),
            func.count().filter(Chunk.status == ChunkStatus.QUEUED, Chunk.interpolated).label("decoded"),
            func.max(Chunk.virtual_time).filter(Chunk.status == ChunkStatus.QUEUED).label("last"),
            func.min(_elapsed()).filter(Chunk.status == ChunkStatus.LEASED).label("elapsed"),
        ).where(mine, Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]))
    ).one()
    if active.tenant is None:
        return Estimate(None, None)
    alive, paused = session.execute(select(workers.count(walk.model).scalar_subquery(), leases.paused())).one()
    return Estimate(
        queue_position=_position(session, walk) if walk.status == WalkStatus.QUEUED else None,
        eta_seconds=_eta(
            session, walk, active.tenant, active.queued, active.decoded, active.last, active.elapsed, alive
        ),
        waiting_for=_waiting_for(walk.model, alive, paused=paused),
    )


def _waiting_for(model: str, alive: int, *, paused: bool) -> str | None:
    if paused:
        return "The queue is paused; the walk continues once it is resumed."
    return None if alive else f"No worker with the model {model} is running; the walk is waiting for one."


def _position(session: Session, walk: Walk) -> int:
    """Return how many chunks come before the first one of a walk.

    Chunks of earlier virtual times are summed from the cached backlogs; the few of the same one are counted.
    """
    queued = and_(Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.model == walk.model)
    first = select(*fairness.ORDER).where(queued, Chunk.walk_id == walk.id).order_by(*fairness.ORDER).limit(1)
    place = session.execute(first).one_or_none()
    if place is None:
        return 0
    same_time = and_(
        queued,
        Chunk.virtual_time == place.virtual_time,
        Chunk.priority != fairness.RETRY,
        tuple_(*fairness.ORDER) < tuple(place),
    )
    ahead = session.execute(select(func.count()).where(same_time)).scalar_one()
    tenants = _backlog(session, walk.model).tenants.values()
    return int(ahead) + sum(tenant.queued_before(place.virtual_time) for tenant in tenants)


def _eta(
    session: Session,
    walk: Walk,
    tenant: str,
    queued: int,
    decoded: int,
    last: int | None,
    elapsed: float | None,
    alive: int,
) -> int | None:
    """Return the seconds until the last frame of a walk, or None if no chunk was done recently.

    Tenants alternate chunk by chunk: before the n-th chunk of this tenant, each other tenant gets n chunks done, or
    all that it has. Chunks of passes not planned yet will come after all that the tenant has queued. All chunks
    before the last one are shared among the workers, and the last one takes its own time.

    Args:
        session: of the caller.
        walk: the walk.
        tenant: of its chunks.
        queued: number of its queued chunks.
        decoded: how many of them are only decoded.
        last: virtual time of the last of them.
        elapsed: seconds since the latest claim among its leased chunks.
        alive: workers with its model.
    """
    backlog = _backlog(session, walk.model)
    pace = backlog.seconds_per_weight
    if pace is None:
        return None
    own = pace * walk.batch_size * walk.spec.steps * walk.spec.width * walk.spec.height
    planned = session.execute(select(func.count()).where(Frame.walk_id == walk.id)).scalar_one()
    if not queued and planned == walk.frames_total:
        return ceil(max(own - float(elapsed or 0), 1))
    n = queued
    if mine := backlog.tenants.get(tenant):  # none if it is newer than the cache
        if last is None or planned < walk.frames_total:
            n = max(n, mine.retried + mine.queued)
        else:
            n = max(n, mine.queued_before(last + 1))
    is_dense = backlog.is_dense and passes.is_dense(walk.spec)
    unplanned = passes.expected_work(walk.spec, planned) if is_dense else walk.frames_total - planned
    n += ceil(unplanned / walk.batch_size)
    saved = 0
    if decoded:  # a decoded frame counts as one step
        work = (walk.frames_total - walk.frames_done) / walk.spec.steps
        saved = max(decoded - ceil(work / walk.batch_size), 0)
    running = ahead = 0.0
    for other in backlog.tenants.values():
        if not other.chunks:
            continue
        each = pace * other.weight / other.chunks
        running += max(each * other.leased - other.leased_seconds, 0)
        if other.tenant != tenant:  # half a chunk ahead of this tenant, on average
            ahead += each * min(max(other.chunks - other.leased, 0), n - 0.5)
    before = running + ahead + own * (n - saved - 1)
    busy = max(alive, sum(other.leased for other in backlog.tenants.values()), 1)
    more = ceil(log2(walk.frames_total / planned)) if planned else 0
    return ceil(max(before / busy + own, own * (bool(queued) + more)))


def _backlog(session: Session, model: str) -> Backlog:
    """Return the backlog of a model, from the cache if that is recent enough (`CACHE_FACTOR`)."""
    cached, now = _cache.get(model), time.monotonic()
    if cached and now < cached.until:
        return cached.backlog
    if cached:  # meanwhile, other threads keep using it
        _cache[model] = cached._replace(until=now + 2 * cached.took)
    reported = select(KnownModel.description["dense"].as_boolean()).where(KnownModel.name == model)
    is_dense = bool(session.execute(reported).scalar())
    tenants = {tenant.tenant: tenant for tenant in _tenant_backlogs(session, model, is_dense=is_dense)}
    backlog = Backlog(tenants, _seconds_per_weight(session, model), is_dense)
    end = time.monotonic()
    _cache[model] = _Cached(backlog, end - now, end + CACHE_FACTOR * (end - now))
    return backlog


def _tenant_backlogs(session: Session, model: str, *, is_dense: bool) -> list[TenantBacklog]:
    """Return the backlogs of all tenants that have chunks of a model queued or leased."""
    queued, leased = Chunk.status == ChunkStatus.QUEUED, Chunk.status == ChunkStatus.LEASED
    untried = and_(queued, Chunk.priority != fairness.RETRY)
    walks = (
        select(
            Chunk.tenant,
            Chunk.walk_id,
            func.count().filter(queued, Chunk.priority == fairness.RETRY).label("retried"),
            func.min(Chunk.virtual_time).filter(untried).label("first"),
            func.count().filter(untried).label("queued"),
            func.count().filter(leased).label("leased"),
            func.sum(_elapsed()).filter(leased).label("leased_seconds"),
        )
        .where(or_(queued, leased), Chunk.kind == ChunkKind.RENDER, Chunk.model == model)
        .group_by(Chunk.tenant, Chunk.walk_id)
        .subquery()
    )
    left = Walk.frames_total - Walk.frames_done
    work = case((and_(literal(is_dense), _is_dense()), _expected_work()), else_=left)
    chunks = func.ceil(work / Walk.batch_size)
    found = session.execute(
        select(
            walks.c.tenant,
            func.sum(walks.c.retried),
            func.coalesce(func.min(walks.c.first), 0),
            func.sum(walks.c.queued),
            func.sum(walks.c.leased),
            func.coalesce(func.sum(walks.c.leased_seconds), 0.0),
            func.sum(chunks),
            func.sum(chunks * _chunk_weight()),
        )
        .join(Walk, Walk.id == walks.c.walk_id)
        .group_by(walks.c.tenant)
    )
    return [
        TenantBacklog(tenant, int(retried), first, int(number), int(held), float(seconds), int(needed), int(weight))
        for tenant, retried, first, number, held, seconds, needed, weight in found
    ]


def _is_dense() -> ColumnElement[bool]:
    """Return the condition that frames of a walk may be interpolated (`passes.is_dense`)."""
    exact = func.coalesce(type_coerce(Walk.spec, JSONB)["exact"].as_boolean(), True)
    return and_(exact == false(), Walk.frames_total >= passes.FEWEST_FRAMES * _legs())


def _expected_work() -> ColumnElement[Any]:
    """Return how much of the work of a dense walk is left, in denoised frames (`passes.expected_work`)."""
    left = Walk.frames_total - Walk.frames_done
    denoised = func.least(func.greatest(passes.DENOISED_PER_LEG * _legs() - Walk.frames_done, 0), left)
    work: ColumnElement[Any] = denoised + (left - denoised) / type_coerce(Walk.spec, JSONB)["steps"].as_float()
    return work


def _legs() -> ColumnElement[int]:
    spec = type_coerce(Walk.spec, JSONB)
    return func.jsonb_array_length(spec["prompts"]) - case((spec["loop"].as_string() == "closed", 0), else_=1)


def _elapsed() -> ColumnElement[Any]:
    """Return the seconds since a chunk was claimed; 0 if PostgreSQL's clock was set back since."""
    elapsed: ColumnElement[Any] = func.greatest(func.extract("epoch", func.now() - Chunk.claimed_at), 0)
    return elapsed


def _chunk_weight() -> ColumnElement[Any]:
    """Return the weight of a chunk of a walk: frames × pixels × steps, since its time is proportional to that."""
    spec = type_coerce(Walk.spec, JSONB)
    steps, width, height = (spec[name].as_integer() for name in ("steps", "width", "height"))
    weight: ColumnElement[Any] = Walk.batch_size * steps * width * height
    return weight


def _seconds_per_weight(session: Session, model: str) -> float | None:
    """Return the recent seconds of a worker per unit of weight, or None if no chunk was done.

    It is a median, because a chunk during which PostgreSQL's clock was set has a wrong time.
    """
    seconds = func.extract("epoch", Chunk.finished_at - Chunk.claimed_at)
    recent = (
        select((seconds / _chunk_weight()).label("pace"))
        .join(Walk, Walk.id == Chunk.walk_id)
        .where(
            Chunk.status == ChunkStatus.DONE,
            Chunk.kind == ChunkKind.RENDER,
            ~Chunk.interpolated,
            Chunk.model == model,
            Chunk.finished_at > func.now() - timedelta(hours=1),
        )
        .order_by(Chunk.finished_at.desc())
        .limit(RECENT_CHUNKS)
        .subquery()
    )
    median = session.execute(select(func.percentile_cont(0.5).within_group(recent.c.pace))).scalar()
    return None if median is None else float(median)
