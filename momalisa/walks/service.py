"""Changing walks: submit, create, cancel, publish, delete.

Each function but `submit` works inside the transaction of its caller (`session.transaction`), who commits.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4, uuid5

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.models import Chunk, IdempotencyKey, Walk
from momalisa.db.session import rowcount, transaction
from momalisa.domain import pacing, passes
from momalisa.domain.pins import Batch, Pins, RenderedFrame, in_batches
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.errors import (
    IdempotencyKeyReusedError,
    InvalidFieldError,
    LimitExceededError,
    NotOwnerError,
    WalkEndedError,
    WalkExpiredError,
    WalkNotFoundError,
)
from momalisa.queue import budgets, catalog, estimate, fairness, lifecycle
from momalisa.queue.budgets import Budget
from momalisa.queue.catalog import Catalog
from momalisa.queue.estimate import Estimate
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.telemetry import tracing
from momalisa.walks import idempotency, queries, relocation
from momalisa.walks.idempotency import IdempotentRequest

WAITING_RETRY_SECONDS = 30
"""Retry-After at MAX_WAITING_WALKS: it is unknown when the next worker will be free."""


@dataclass(frozen=True)
class NewWalk:
    """A walk to create, with all choices made."""

    spec: WalkSpec
    public: bool = True
    deadline_seconds: int | None = None
    webhook_url: str | None = None
    warnings: tuple[str, ...] = ()
    """What a visitor should know about it at once."""
    pins: Pins | None = None
    """The batches that it is made of; None if they are planned."""
    variations: tuple[WalkSpec, ...] = ()
    """More walks of the same request, which are the same in all else."""


@dataclass(frozen=True)
class Submission:
    """A walk that was submitted, with its variations."""

    walk: Walk
    estimate: Estimate
    variations: tuple[tuple[Walk, Estimate], ...]
    """The other walks of the request that are still there."""
    viewer: str | None
    """Who may view it in the response: its owner, or None if the request does not prove to come from the owner."""
    new: bool
    """Whether this submission created it, and not an earlier one with the same idempotency key."""
    budgets: tuple[Budget, ...] = ()
    """The tenant's daily budgets, if the walk was charged to them just now."""


def submit(
    prepare: Callable[[Walk | None, Catalog], NewWalk],
    *,
    owner: str,
    tenant: str,
    known: bool,
    from_walk: UUID | None = None,
    idempotent: IdempotentRequest | None = None,
    count: int = 1,
) -> Submission:
    """Create a walk, or return the one that the same request created before; in transactions of its own.

    The caller publishes wake-up messages for a new walk afterwards.

    Args:
        prepare: returns what to create, given the walk to start from, if any, and the models on offer. It is called
            at most once, between the transactions, so it may call other services.
        owner: who will own the walk.
        tenant: the unit of fairness and limits.
        known: whether the request identified its owner; if not, a new owner was generated for it.
        from_walk: the walk to start from.
        idempotent: the request with its idempotency key, if it has one.
        count: of the walks that the request makes: one and its variations.

    Raises:
        InvalidFieldError: if `owner` may not start from `from_walk`.
        IdempotencyKeyReusedError: if the key was used before for another request.
        LimitExceededError: if too many walks of the tenant wait, or a daily budget would be exceeded.
    """
    new_id, source, left = uuid4(), None, tuple[Budget, ...]()
    with transaction() as session:
        walk_id = None if idempotent is None else idempotency.find(session, idempotent)
        if walk_id is None:
            source = None if from_walk is None else _source(session, from_walk, owner)
            _check_waiting(session, tenant, count)
            on_offer = catalog.offered(session)
    if walk_id is None:
        new = prepare(source, on_offer)
        with transaction() as session:
            walk_id = new_id if idempotent is None else idempotency.remember(session, idempotent, new_id)
            if walk_id == new_id:
                _check_waiting(session, tenant, count)
                specs = dict(zip(_ids(new_id, count), (new.spec, *new.variations), strict=True))
                if settings().rate_limits:
                    costs = {each: budgets.highest_cost(spec, new.pins) for each, spec in specs.items()}
                    left = tuple(budgets.charge(session, tenant, costs))
                for each, spec in specs.items():
                    create(
                        session,
                        spec,
                        public=new.public,
                        owner=owner,
                        tenant=tenant,
                        deadline_seconds=new.deadline_seconds,
                        webhook_url=new.webhook_url,
                        warnings=new.warnings,
                        walk_id=each,
                        source=source,
                        pins=new.pins,
                    )
    viewer = owner if walk_id == new_id or known else None
    with transaction() as session:
        walk = _submitted(session, walk_id, viewer)
        others = []
        for each in _ids(walk_id, count)[1:]:
            with suppress(WalkNotFoundError, WalkExpiredError):
                others.append(queries.get(session, each, viewer=viewer))
        return Submission(
            walk,
            estimate.estimate(session, walk),
            tuple((other, estimate.estimate(session, other)) for other in others),
            viewer,
            new=walk_id == new_id,
            budgets=left,
        )


def _ids(first: UUID, count: int) -> list[UUID]:
    """Return the ids of the walks of one request, which follow from that of the first."""
    return [first, *(uuid5(first, str(number)) for number in range(1, count))]


def _source(session: Session, walk_id: UUID, viewer: str) -> Walk:
    """Return the walk to start from."""
    try:
        return queries.get(session, walk_id, viewer=viewer)
    except (WalkNotFoundError, WalkExpiredError) as error:
        raise InvalidFieldError("from_walk", str(error).removesuffix(".")) from error


def _submitted(session: Session, walk_id: UUID, viewer: str | None) -> Walk:
    try:
        return queries.get(session, walk_id, viewer=viewer)
    except WalkNotFoundError:
        raise IdempotencyKeyReusedError(
            "Idempotency-Key: was used within the last 24 hours for a walk that is no longer public; use a new key."
        ) from None


def _check_waiting(session: Session, tenant: str, count: int) -> None:
    """Refuse `count` more walks of a tenant that would then have more than MAX_WAITING_WALKS in the queue.

    All other submissions of the tenant wait here until the transaction ends, so that two of them cannot both take
    the last place.

    Raises:
        LimitExceededError: if the limit is reached.
    """
    if not settings().rate_limits:
        return
    waiting = _count_waiting(session, tenant)
    if waiting + count > settings().max_waiting_walks:
        most = settings().max_waiting_walks
        raise LimitExceededError(
            f"{waiting} of your walks are waiting for workers; with {count} more there would be more than {most}.",
            retry_after=WAITING_RETRY_SECONDS,
        )


def _count_waiting(session: Session, tenant: str) -> int:
    """Return how many walks of a tenant have queued chunks; locks the tenant until the transaction ends."""
    fairness.lock_tenant(session, tenant)
    walks = select(func.count(Chunk.walk_id.distinct())).where(
        Chunk.status == ChunkStatus.QUEUED, Chunk.tenant == tenant
    )
    return session.execute(walks).scalar_one()


def create(
    session: Session,
    spec: WalkSpec,
    *,
    public: bool,
    owner: str,
    tenant: str | None = None,
    deadline_seconds: int | None = None,
    webhook_url: str | None = None,
    warnings: Sequence[str] = (),
    walk_id: UUID | None = None,
    source: Walk | None = None,
    pins: Pins | None = None,
) -> Walk:
    """Write a walk with the chunks and frames of its first pass.

    If omitted, `tenant` is the owner and `walk_id` is random. `source` is the walk, with its frames, that this one
    starts from: it reuses frames that are the same. With `pins`, it has exactly those batches.
    """
    tenant, model = tenant or owner, spec.model or settings().model_name
    batch_size, batches = _first_batches(session, spec, model, source, pins)
    walk = Walk(
        id=walk_id or uuid4(),
        owner=owner,
        public=public,
        secret=bucket.new_secret(),
        spec=spec,
        from_walk=None if source is None else source.id,
        model=model,
        batch_size=batch_size,
        made_with=None if pins is None else pins.made_with,
        frames_total=spec.frames,
        deadline_at=None if deadline_seconds is None else func.now() + timedelta(seconds=deadline_seconds),
        webhook_url=webhook_url,
        warnings=list(warnings),
        traceparent=tracing.here(),
    )
    session.add(walk)
    session.flush()
    lifecycle.enqueue(session, walk.id, tenant, model, batches, exact=spec.exact)
    if any(batch.interpolated for batch in batches):
        lifecycle.settle_waiting(session, walk.id)
    return walk


def _first_batches(
    session: Session, spec: WalkSpec, model: str, source: Walk | None, pins: Pins | None
) -> tuple[int, list[Batch]]:
    """Return the batch size of a new walk, and the batches of its first pass, or all that it is pinned to.

    A walk that only adds frames to its source keeps the batches of that one whole, so that its frames are the same.
    """
    if pins is not None:
        pinned = pins.denoised() if spec.exact else pins
        return max(batch.size for batch in pinned.batches), pinned.batches
    size, kept = settings().batch_size, list[Batch]()
    if source is not None and source.model == model and spec.refines(source.spec):
        size, kept = source.batch_size, _rendered_batches(session, source)
        kept = [batch for batch in kept if not (spec.exact and batch.interpolated)]
    kept_positions = {position for batch in kept for position in batch.positions}
    planned = passes.plan_first_pass(spec, size, kept_positions)
    if not kept_positions <= set(planned):  # with linear pacing, few numbers of frames have all of these positions
        kept, kept_positions = [], set()
    new = [position for position in planned if position not in kept_positions]
    return size, kept + pacing.batches(new, size)


def _rendered_batches(session: Session, walk: Walk) -> list[Batch]:
    """Return the batches of a walk that are rendered, in the order in which they were planned."""
    rendered = select(Chunk.number, Chunk.batch_size, Chunk.interpolated).where(
        Chunk.walk_id == walk.id, Chunk.kind == ChunkKind.RENDER, Chunk.status == ChunkStatus.DONE
    )
    chunks = {number: (size or walk.batch_size, between) for number, size, between in session.execute(rendered)}
    return in_batches(
        RenderedFrame(frame.chunk, frame.position, *chunks[frame.chunk])
        for frame in walk.frames
        if frame.chunk in chunks
    )


def cancel(session: Session, walk_id: UUID, *, owner: str | None) -> Walk:
    """Cancel a walk and return it; rendered frames stay. Canceling it again changes nothing.

    Raises:
        WalkNotFoundError: if there is none with this id that `owner` may see.
        NotOwnerError: if `owner` does not own it.
        WalkEndedError: if it has succeeded or failed.
    """
    walk = _owned(session, walk_id, owner)
    if not lifecycle.end_walk(session, walk_id, WalkStatus.CANCELED):
        session.refresh(walk, ["status"])
        if walk.status != WalkStatus.CANCELED:
            raise WalkEndedError(f"The walk {walk_id} can no longer be canceled: it is {walk.status.value}.")
    return queries.get(session, walk_id, viewer=owner)


def set_public(session: Session, walk_id: UUID, public: bool, *, owner: str | None) -> Walk:
    """Make a walk public, or visible to its owner only, and return it.

    If it becomes private, the present URLs of its files stop working soon (`relocation`).

    Raises:
        WalkNotFoundError: if there is none with this id that `owner` may see.
        WalkExpiredError: if it is past its retention.
        NotOwnerError: if `owner` does not own it.
    """
    _owned(session, walk_id, owner)
    lifecycle.lock_chunks(session, walk_id)
    changed = session.execute(
        update(Walk)
        .where(Walk.id == walk_id, Walk.public != public)
        .values(public=public, **notifications.changed(session, walk_id))
    )
    if rowcount(changed) and not public:
        relocation.begin(session, walk_id)
    return queries.get(session, walk_id, viewer=owner)


def delete(session: Session, walk_id: UUID, *, owner: str | None) -> None:
    """Delete a walk for its owner.

    Raises:
        WalkNotFoundError: if there is none with this id that `owner` may see.
        WalkExpiredError: if it is past its retention.
        NotOwnerError: if `owner` does not own it.
    """
    _owned(session, walk_id, owner)
    remove(session, walk_id)


def remove(session: Session, walk_id: UUID) -> None:
    """Mark a walk as deleted: from now on it is invisible, and `retention.remove` removes the rest."""
    lifecycle.end_walk(session, walk_id, WalkStatus.CANCELED)
    session.execute(
        update(Walk)
        .where(Walk.id == walk_id)
        .values(deleted_at=func.now(), **notifications.changed(session, walk_id))
    )
    session.execute(sql_delete(IdempotencyKey).where(IdempotencyKey.walk_id == walk_id))


def _owned(session: Session, walk_id: UUID, owner: str | None) -> Walk:
    walk = queries.get(session, walk_id, viewer=owner)
    if walk.owner != owner:
        raise NotOwnerError(f"Only the owner of walk {walk_id} can do this.")
    return walk
