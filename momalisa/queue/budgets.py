"""The daily budgets of tenants: what the walks that they submitted within a day render and encode.

A new walk is charged for all its frames, so that no budget is ever exceeded. When it ends, the charge is lowered to
what was computed, in the same transaction, and then never changes. A charge outlives its walk: deleting one gives
nothing back.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, and_, case, delete, func, insert, not_, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from momalisa.db.models import Charge, Chunk, Frame
from momalisa.db.session import rowcount
from momalisa.domain.pins import Pins
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.errors import InvalidFieldError, LimitExceededError
from momalisa.settings import settings

DAY = timedelta(days=1)

RETRY_SECONDS = 30
"""Retry-After if walks that have not ended may give enough back: when they end is unknown."""


class Cost(NamedTuple):
    """What a walk takes of the daily budgets."""

    pixel_steps: int
    """Rendered pictures × width × height × steps."""
    output_pixels: int
    """Frames of the animation × width × height, with those of large files."""


class _Kind(NamedTuple):
    """How messages name a budget."""

    name: str
    product: str
    advice: str


_COLUMNS = (Charge.pixel_steps, Charge.output_pixels)

_KINDS = (
    _Kind(
        "pixel-steps",
        "rendered pictures × width × height × steps",
        "ask for fewer frames, fewer steps or a smaller size",
    ),
    _Kind(
        "output-pixels",
        "frames of the animation × width × height, with those of large files,",
        "ask for fewer frames, a smaller size or no large files",
    ),
)


def _per_day() -> tuple[int, int]:
    return settings().pixel_steps_per_day, settings().output_pixels_per_day


class Budget(NamedTuple):
    """A daily budget, and what remains of it."""

    name: str
    per_day: int
    left: int
    reserved: int
    """What walks that have not ended are charged for rendering, and may give back."""
    reset_seconds: int
    """Until all of it is left again, if nothing is charged until then."""


class BudgetExceededError(LimitExceededError):
    """A daily budget of the caller has too little left."""

    def __init__(self, message: str, budgets: list[Budget], *, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.budgets = budgets


def highest_cost(spec: WalkSpec, pins: Pins | None) -> Cost:
    """Return what a walk takes if all its frames are denoised, and none is copied.

    Batches are rendered whole: in a pinned walk, the pictures that only fill up a batch count, too.
    """
    pixels = spec.width * spec.height
    pictures = spec.frames if pins is None else sum(batch.size for batch in pins.batches)
    large_width, large_height = spec.large_size or (0, 0)
    return Cost(pictures * pixels * spec.steps, spec.frames_shown * (pixels + large_width * large_height))


def all_of(session: Session, tenant: str) -> list[Budget]:
    """Return the budgets of a tenant, in the order of `Cost`."""
    sums = (func.sum(column) for column in _COLUMNS)
    open_work = func.sum(Charge.pixel_steps).filter(not_(Charge.settled))
    newest = func.extract("epoch", func.now() - func.max(Charge.created_at))
    *taken, reserved, age = session.execute(select(*sums, open_work, newest).where(_of_today(tenant))).one()
    seconds = 1 if age is None else max(1, math.ceil(DAY.total_seconds() - float(age)))
    return [
        Budget(kind.name, per_day, max(per_day - int(each or 0), 0), int(kept or 0), seconds)
        for kind, per_day, each, kept in zip(_KINDS, _per_day(), taken, (reserved, 0), strict=True)
    ]


def check_possible(spec: WalkSpec, pins: Pins | None, count: int) -> None:
    """Refuse `count` walks that would exceed a daily budget even if nothing was charged yet.

    Raises:
        InvalidFieldError: if they would.
    """
    fields = "frames" if pins is None else "pinned", "frames"
    for field, kind, per_day, cost in zip(fields, _KINDS, _per_day(), highest_cost(spec, pins), strict=True):
        if (wanted := cost * count) > per_day:
            message = f"{kind.product} may be at most {per_day} per day, and this may take {wanted}; {kind.advice}"
            raise InvalidFieldError(field, message)


def charge(session: Session, tenant: str, walks: Mapping[UUID, Cost]) -> list[Budget]:
    """Charge a tenant what new walks may take at most, and return its budgets afterwards.

    The caller has locked the tenant (`fairness.lock_tenant`), so that no two submissions spend the same remainder.

    Raises:
        BudgetExceededError: if a budget would be exceeded.
    """
    totals = [sum(costs) for costs in zip(*walks.values(), strict=True)]
    found = all_of(session, tenant)
    for kind, column, budget, cost in zip(_KINDS, _COLUMNS, found, totals, strict=True):
        if cost > budget.left:
            message = (
                f"Of {budget.per_day} {budget.name} in 24 hours, {budget.left} are left, and this may take {cost}; "
                f"{kind.advice}"
            )
            seconds = RETRY_SECONDS
            if cost <= budget.left + budget.reserved:
                message += ", or wait for your unfinished walks: what they turn out not to need is given back"
            else:
                seconds = _seconds_until_room(session, tenant, column, budget.per_day - cost)
            raise BudgetExceededError(f"{message}.", found, retry_after=seconds)
    rows = [{"walk_id": walk_id, "tenant": tenant, **cost._asdict()} for walk_id, cost in walks.items()]
    session.execute(insert(Charge).values(rows))
    return [
        budget._replace(left=budget.left - cost, reset_seconds=int(DAY.total_seconds()))
        for budget, cost in zip(found, totals, strict=True)
    ]


def settle(session: Session, walk_id: UUID, spec: WalkSpec) -> None:
    """Lower the charge of a walk that ends to what was computed; it may have none, and never rises.

    Frames that a worker has begun to make count as denoised, unless they are interpolated, which counts as one
    step, or copied, which counts as nothing. If an operator retries the walk later, that is free of charge.
    """
    pixel_steps = spec.width * spec.height * _picture_steps(walk_id, spec.steps)
    assembled = select(Chunk.number).where(_begun(walk_id, ChunkKind.ASSEMBLE)).exists()
    session.execute(
        update(Charge)
        .where(Charge.walk_id == walk_id, not_(Charge.settled))
        .values(
            settled=True,
            pixel_steps=func.least(Charge.pixel_steps, pixel_steps),
            output_pixels=case((assembled, Charge.output_pixels), else_=0),
        )
        .execution_options(synchronize_session=False)
    )


def delete_old(session: Session) -> int:
    """Delete up to 1,000 charges that no longer count, and return how many."""
    old = select(Charge.walk_id).where(Charge.created_at <= func.now() - DAY).limit(1000)
    # A transaction that ends several walks locks their charges in another order: waiting for it could deadlock.
    unlocked = old.with_for_update(skip_locked=True)
    return rowcount(session.execute(delete(Charge).where(Charge.walk_id.in_(unlocked))))


def _of_today(tenant: str) -> ColumnElement[bool]:
    return and_(Charge.tenant == tenant, Charge.created_at > func.now() - DAY)


def _seconds_until_room(session: Session, tenant: str, column: InstrumentedAttribute[int], most: int) -> int:
    """Return the seconds until a tenant's charges sum up to no more than `most`, if none is added or lowered."""
    since = func.sum(column).over(order_by=Charge.created_at.desc())  # with all that were made at the same time
    charges = select(Charge.created_at, since.label("since")).where(_of_today(tenant)).subquery()
    age = func.extract("epoch", func.now() - func.max(charges.c.created_at))
    seconds = session.execute(select(age).where(charges.c.since > most)).scalar_one()
    return max(1, math.ceil(DAY.total_seconds() - float(seconds)))


def _begun(walk_id: UUID, kind: ChunkKind) -> ColumnElement[bool]:
    return and_(Chunk.walk_id == walk_id, Chunk.kind == kind, Chunk.attempts > 0)


def _picture_steps(walk_id: UUID, steps: int) -> ScalarSelect[int]:
    """Return how many pictures a walk rendered × steps; a batch is rendered whole, for whichever of its frames."""
    pictures = (func.count() + Chunk.batch_size - 1) // Chunk.batch_size * Chunk.batch_size
    # Of a frame that is not recorded, only the plan is known.
    interpolated = or_(Frame.interpolated, and_(Frame.rendered_at.is_(None), Chunk.interpolated))
    denoised = func.bool_or(not_(interpolated) & not_(Frame.copied))
    decoded = func.count().filter(interpolated, not_(Frame.copied))
    each = (case((denoised, pictures * steps), else_=0) + decoded).label("each")
    its_frames = and_(Frame.walk_id == Chunk.walk_id, Frame.chunk == Chunk.number)
    begun = select(each).select_from(Chunk).join(Frame, its_frames).where(_begun(walk_id, ChunkKind.RENDER))
    chunks = begun.group_by(Chunk.number, Chunk.batch_size).subquery()
    return select(func.coalesce(func.sum(chunks.c.each), 0)).scalar_subquery()
