"""The fair order of render chunks: one clock for each model, on which tenants take turns chunk by chunk.

A chunk gets its turn when it is written, and workers claim in the order of turns (`ORDER`). While a tenant has
chunks queued, these bear turns that follow each other without a gap, and its first bears the turn that is being
served now, or the next one. So between two tenants that both have work waiting, the chunks served over any stretch
of claims differ by `FAIRNESS` at most, whatever the size of their walks.
Source: Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996.

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from momalisa.db.models import Chunk, Tenant
from momalisa.domain.states import ChunkKind, ChunkStatus

FAIRNESS = 2
"""Chunks by which two tenants may differ that both have work waiting, over any stretch of claims."""

LOST, NEWCOMER, USUAL = 0, 1, 2
"""Ranks within a turn. What was in a worker's hands before keeps its old turn, so it comes first in any case."""

ORDER = (Chunk.virtual_time, Chunk.priority, Chunk.created_at)
"""The order in which chunks of one kind and model are claimed."""

NO_MODEL = ""
"""The model of a chunk that needs none: any worker of its kind can do it."""


class Turns(NamedTuple):
    """Where new chunks of a tenant come in the fair order."""

    first: int
    """The turn of the first of them; each other has the one after that of its predecessor."""
    priority: int
    """Of the first of them. The others are USUAL."""


def lock_tenant(session: Session, tenant: str) -> None:
    """Have everybody else who adds work for a tenant wait until the end of this transaction."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(tenant, 0))))


def draw(session: Session, tenant: str, model: str, count: int) -> Turns:
    """Draw turns for `count` new chunks of a tenant.

    They follow the last one that the tenant has queued. A tenant with nothing queued starts at the turn being
    served now, or at the one after it if it was served in this one already: that is what its row remembers. It gets
    a head start within its first turn, so that a newcomer soon sees something; as this counts like any other chunk,
    it cannot be had again and again.
    """
    lock_tenant(session, tenant)
    queued = _queued(Chunk, model)
    last = select(func.max(Chunk.virtual_time)).where(queued, Chunk.tenant == tenant).scalar_subquery()
    known = select(Tenant.next_virtual_time).where(Tenant.tenant == tenant, Tenant.model == model).scalar_subquery()
    now = _now(model)
    start = func.least(func.coalesce(known, 0), now + 1)
    drawn = select(
        func.greatest(now, func.coalesce(last + 1, start)).label("first"),
        case((last.is_(None), NEWCOMER), else_=USUAL).label("priority"),
    ).cte("drawn")
    row = insert(Tenant).from_select(
        ["tenant", "model", "next_virtual_time"], select(literal(tenant), literal(model), drawn.c.first + count)
    )
    written = row.on_conflict_do_update(
        index_elements=[Tenant.tenant, Tenant.model], set_={"next_virtual_time": row.excluded.next_virtual_time}
    ).returning(Tenant.next_virtual_time - count, select(drawn.c.priority).scalar_subquery())
    first, rank = session.execute(written).one()
    return Turns(first, rank)


def close_gaps(session: Session) -> int:
    """Move chunks up where turns are skipped because of others that were dropped; returns how many moved.

    So a tenant that cancels a walk has its turns back, and its next walk does not wait for those of the old one.
    While somebody else has one of its chunks locked, all of them stay where they are until the next round: what
    moved up past that one could take the turn that it has.
    """
    turn = Chunk.virtual_time
    each = select(
        Chunk.model,
        Chunk.tenant,
        func.min(turn).label("first"),
        (func.max(turn) - func.min(turn) + 1 - func.count()).label("skipped"),
    )
    found = each.where(_queued(Chunk)).group_by(Chunk.model, Chunk.tenant).subquery()
    latest = func.min(found.c.first).over(partition_by=found.c.model) + 1
    start = select(found, func.least(found.c.first, latest).label("virtual_time")).subquery()
    loose = select(start.c.model, start.c.tenant, start.c.virtual_time).where(
        or_(start.c.skipped > 0, start.c.first > start.c.virtual_time)
    )
    moved = 0
    for model, owner, first in session.execute(loose).all():
        theirs = select(Chunk.walk_id, Chunk.number, turn).where(_queued(Chunk, model), Chunk.tenant == owner)
        free = theirs.with_for_update(skip_locked=True).cte("free")
        none_locked = select(func.count()).select_from(free).scalar_subquery() == (
            select(func.count()).select_from(theirs.subquery()).scalar_subquery()
        )
        place = func.row_number().over(order_by=free.c.virtual_time)
        new = select(free.c.walk_id, free.c.number, (first - 1 + place).label("virtual_time")).subquery()
        changed = session.execute(
            update(Chunk)
            .where(
                Chunk.walk_id == new.c.walk_id, Chunk.number == new.c.number, turn > new.c.virtual_time, none_locked
            )
            .values(virtual_time=new.c.virtual_time)
            .returning(Chunk.number)
            .execution_options(synchronize_session=False)
        )
        moved += len(changed.all())
    return moved


def delete_idle(session: Session) -> None:
    """Forget tenants that would start at the turn that is being served now in any case."""
    session.execute(
        delete(Tenant)
        .where(Tenant.next_virtual_time < _now(Tenant.model))
        .execution_options(synchronize_session=False)
    )


def _now(model: object) -> ColumnElement[int]:
    """Return the turn of a model that is being served now: the least of those queued.

    With nothing queued it is the latest that was ever drawn, as far as that is remembered: everybody is level then.
    """
    waiting, known = aliased(Chunk), aliased(Tenant)
    served = (
        select(func.min(waiting.virtual_time)).where(_queued(waiting, model)).correlate(Tenant).scalar_subquery()
    )
    latest = (
        select(func.max(known.next_virtual_time)).where(known.model == model).correlate(Tenant).scalar_subquery()
    )
    now: ColumnElement[int] = func.coalesce(served, latest, 0)
    return now


def _queued(chunk: type[Chunk], model: object = None) -> ColumnElement[bool]:
    """Return the condition that a render chunk waits for its turn."""
    waits = and_(chunk.status == ChunkStatus.QUEUED, chunk.kind == ChunkKind.RENDER, chunk.priority != LOST)
    return waits if model is None else and_(waits, chunk.model == model)
