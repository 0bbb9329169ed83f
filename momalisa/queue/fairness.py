"""The fair order of render chunks: tenants alternate chunk by chunk, by virtual time, separately for each model.

Each chunk gets a virtual time when it is written, and workers claim by virtual time (`ORDER`). The clock of a model
shows the lowest virtual time that is queued. A tenant's queued chunks have consecutive virtual times, and the first
of them is the clock's, or the next. In this example the clock shows 7, A has three chunks queued, and B adds two:

    virtual time   7    8    9
    tenant A       a1   a2   a3
    tenant B       b1   b2            claimed: b1 a1 a2 b2 a3

So while two tenants both have chunks queued, the numbers of their claimed chunks differ by at most `FAIRNESS`,
whatever the sizes of their walks.
Source: Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits.
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from momalisa.db.models import Chunk, Tenant
from momalisa.domain.states import ChunkKind, ChunkStatus

FAIRNESS = 2
"""Bound on the difference in chunks claimed between two tenants that both have chunks queued."""

RETRY, NEWCOMER, NORMAL = 0, 1, 2
"""Priorities within a virtual time: retries, the first chunk of a tenant that had none queued, all others.

A retried chunk keeps its virtual time, which the clock has passed, so it is claimed first in any case. The clock
does not go back for it. The same holds for a chunk that had to wait for others until the clock had passed it.
"""

ORDER = (Chunk.virtual_time, Chunk.priority, Chunk.created_at)
"""The order in which chunks of one kind and model are claimed."""

NO_MODEL = ""
"""The model of a chunk that needs none: any worker of its kind can claim it."""


class VirtualTimes(NamedTuple):
    """The place of a tenant's new chunks in the fair order."""

    first: int
    """Virtual time of the first chunk; the others follow it one by one."""
    priority: int
    """Of the first chunk; the others are NORMAL."""


def lock_tenant(session: Session, tenant: str) -> None:
    """Block others that enqueue chunks for a tenant until the end of this transaction."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(tenant, 0))))


def next_virtual_times(session: Session, tenant: str, model: str, count: int) -> VirtualTimes:
    """Assign virtual times to `count` new chunks of a tenant.

    They follow the last one that the tenant has queued. A tenant with nothing queued starts at the clock, or one
    later if it was already served at the current virtual time, which its row in `tenants` records. Its first chunk
    comes before those of others at the same virtual time, so that its first frames appear soon. The row counts this
    chunk too, so no tenant gets this head start repeatedly.
    """
    lock_tenant(session, tenant)
    queued = _queued(Chunk, model)
    last = select(func.max(Chunk.virtual_time)).where(queued, Chunk.tenant == tenant).scalar_subquery()
    known = select(Tenant.next_virtual_time).where(Tenant.tenant == tenant, Tenant.model == model).scalar_subquery()
    clock = _clock(model)
    start = func.least(func.coalesce(known, 0), clock + 1)
    assigned = select(
        func.greatest(clock, func.coalesce(last + 1, start)).label("first"),
        case((last.is_(None), NEWCOMER), else_=NORMAL).label("priority"),
    ).cte("assigned")
    row = insert(Tenant).from_select(
        ["tenant", "model", "next_virtual_time"],
        select(literal(tenant), literal(model), assigned.c.first + count),
    )
    written = row.on_conflict_do_update(
        index_elements=[Tenant.tenant, Tenant.model], set_={"next_virtual_time": row.excluded.next_virtual_time}
    ).returning(Tenant.next_virtual_time - count, select(assigned.c.priority).scalar_subquery())
    first, priority = session.execute(written).one()
    return VirtualTimes(first, priority)


def close_gaps(session: Session) -> int:
    """Move chunks to earlier virtual times where others were dropped before them; return how many were moved.

    So the next walk of a tenant that cancels one does not wait for the virtual times of the canceled one. While
    another transaction locks one of a tenant's chunks, all of them stay until the next call: a chunk that is moved
    past the locked one could get the same virtual time.
    """
    time = Chunk.virtual_time
    each = select(
        Chunk.model,
        Chunk.tenant,
        func.min(time).label("first"),
        (func.max(time) - func.min(time) + 1 - func.count()).label("skipped"),
    )
    found = each.where(_queued(Chunk)).group_by(Chunk.model, Chunk.tenant).subquery()
    latest = func.min(found.c.first).over(partition_by=found.c.model) + 1
    start = select(found, func.least(found.c.first, latest).label("virtual_time")).subquery()
    with_gaps = select(start.c.model, start.c.tenant, start.c.virtual_time).where(
        or_(start.c.skipped > 0, start.c.first > start.c.virtual_time)
    )
    moved = 0
    for model, tenant, first in session.execute(with_gaps).all():
        theirs = select(Chunk.walk_id, Chunk.number, time).where(_queued(Chunk, model), Chunk.tenant == tenant)
        free = theirs.with_for_update(skip_locked=True).cte("free")
        none_locked = select(func.count()).select_from(free).scalar_subquery() == (
            select(func.count()).select_from(theirs.subquery()).scalar_subquery()
        )
        place = func.row_number().over(order_by=free.c.virtual_time)
        new = select(free.c.walk_id, free.c.number, (first - 1 + place).label("virtual_time")).subquery()
        changed = session.execute(
            update(Chunk)
            .where(
                Chunk.walk_id == new.c.walk_id, Chunk.number == new.c.number, time > new.c.virtual_time, none_locked
            )
            .values(virtual_time=new.c.virtual_time)
            .returning(Chunk.number)
            .execution_options(synchronize_session=False)
        )
        moved += len(changed.all())
    return moved


def delete_idle(session: Session) -> None:
    """Delete the rows of tenants that the clock has passed; without a row, they start at the clock as well."""
    session.execute(
        delete(Tenant)
        .where(Tenant.next_virtual_time < _clock(Tenant.model))
        .execution_options(synchronize_session=False)
    )


def clock_has_passed() -> ColumnElement[bool]:
    """Return the condition that the clock has passed the virtual time of a chunk that is not queued."""
    waiting = aliased(Chunk)
    served = select(func.min(waiting.virtual_time)).where(_queued(waiting, Chunk.model)).correlate(Chunk)
    return Chunk.virtual_time < func.coalesce(served.scalar_subquery(), Chunk.virtual_time)


def _clock(model: object) -> ColumnElement[int]:
    """Return the current virtual time of a model: the lowest one that is queued.

    With nothing queued it is the latest one that was assigned, according to `tenants`: then all tenants are level.
    """
    waiting, known = aliased(Chunk), aliased(Tenant)
    served = (
        select(func.min(waiting.virtual_time)).where(_queued(waiting, model)).correlate(Tenant).scalar_subquery()
    )
    latest = (
        select(func.max(known.next_virtual_time)).where(known.model == model).correlate(Tenant).scalar_subquery()
    )
    clock: ColumnElement[int] = func.coalesce(served, latest, 0)
    return clock


def _queued(chunk: type[Chunk], model: object = None) -> ColumnElement[bool]:
    """Return the condition that a render chunk is queued and was not tried before."""
    waits = and_(chunk.status == ChunkStatus.QUEUED, chunk.kind == ChunkKind.RENDER, chunk.priority != RETRY)
    return waits if model is None else and_(waits, chunk.model == model)
