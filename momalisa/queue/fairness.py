"""The fair order of render chunks: one clock for each model, on which parties take turns chunk by chunk.

A chunk gets its turn when it is written, and workers claim in the order of turns (`ORDER`). While a party has
chunks queued, these bear turns that follow each other without a gap, and its first bears the turn that is being
served now, or the next one. So between two parties that both have work waiting, the chunks served over any stretch
of claims differ by `FAIRNESS` at most, whatever the size of their walks.
Source: Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996.

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from momalisa.db.models import Chunk, ChunkKind, ChunkStatus, Party, Walk

FAIRNESS = 2
"""Chunks by which two parties may differ that both have work waiting, over any stretch of claims."""

LOST, NEWCOMER, USUAL = 0, 1, 2
"""Ranks within a turn. What was in a worker's hands before keeps its old turn, so it comes first in any case."""

ORDER = (Chunk.turn, Chunk.rank, Chunk.created_at)
"""The order in which chunks of one kind and model are claimed."""

NO_MODEL = ""
"""The model of a chunk that needs none: any worker of its kind can do it."""


class Turns(NamedTuple):
    """Where new chunks of a party come in the fair order."""

    first: int
    """The turn of the first of them; each other has the one after that of its predecessor."""
    rank: int
    """Of the first of them. The others are USUAL."""


def lock_tenant(session: Session, party: str) -> None:
    """Have everybody else who adds work for a party wait until the end of this transaction."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(party, 0))))


def draw(session: Session, party: str, model: str, count: int) -> Turns:
    """Draw turns for `count` new chunks of a party.

    They follow the last one that the party has queued. A party with nothing queued starts at the turn that is being
    served now, or at the one after it if it was served in this one already: that is what its row remembers. It gets
    a head start within its first turn, so that a newcomer soon sees something; as this counts like any other chunk,
    it cannot be had again and again.
    """
    lock_tenant(session, party)
    queued = _queued(Chunk, model)
    last = select(func.max(Chunk.turn)).where(queued, Chunk.owner == party).scalar_subquery()
    known = select(Party.next_turn).where(Party.party == party, Party.model == model).scalar_subquery()
    now = _now(model)
    start = func.least(func.coalesce(known, 0), now + 1)
    drawn = select(
        func.greatest(now, func.coalesce(last + 1, start)).label("first"),
        case((last.is_(None), NEWCOMER), else_=USUAL).label("rank"),
    ).cte("drawn")
    row = insert(Party).from_select(
        ["party", "model", "next_turn"], select(literal(party), literal(model), drawn.c.first + count)
    )
    written = row.on_conflict_do_update(
        index_elements=[Party.party, Party.model], set_={"next_turn": row.excluded.next_turn}
    ).returning(Party.next_turn - count, select(drawn.c.rank).scalar_subquery())
    first, rank = session.execute(written).one()
    return Turns(first, rank)


def adopt(session: Session) -> None:
    """Fill in what code from before this order left out, on chunks that it has queued."""
    strange = (
        select(Chunk.walk_id, Chunk.number)
        .where(Chunk.status == ChunkStatus.QUEUED, Chunk.kind.in_(list(ChunkKind)), Chunk.model.is_(None))
        .with_for_update(skip_locked=True)
    )
    session.execute(
        update(Chunk)
        .where(tuple_(Chunk.walk_id, Chunk.number).in_(strange), Walk.id == Chunk.walk_id)
        .values(model=case((Chunk.kind == ChunkKind.RENDER, Walk.model), else_=NO_MODEL))
        .execution_options(synchronize_session=False)
    )


def close_gaps(session: Session) -> int:
    """Move chunks up where turns are skipped because of others that were dropped; returns how many moved.

    So a party that cancels a walk has its turns back, and its next walk does not wait for those of the old one.
    While somebody else has one of its chunks locked, all of them stay where they are until the next round: what
    moved up past that one could take the turn that it has.
    """
    turn = Chunk.turn
    each = select(
        Chunk.model,
        Chunk.owner,
        func.min(turn).label("first"),
        (func.max(turn) - func.min(turn) + 1 - func.count()).label("skipped"),
    )
    found = each.where(_queued(Chunk)).group_by(Chunk.model, Chunk.owner).subquery()
    latest = func.min(found.c.first).over(partition_by=found.c.model) + 1
    start = select(found, func.least(found.c.first, latest).label("turn")).subquery()
    loose = select(start.c.model, start.c.owner, start.c.turn).where(
        or_(start.c.skipped > 0, start.c.first > start.c.turn)
    )
    moved = 0
    for model, owner, first in session.execute(loose).all():
        theirs = select(Chunk.walk_id, Chunk.number, turn).where(_queued(Chunk, model), Chunk.owner == owner)
        free = theirs.with_for_update(skip_locked=True).cte("free")
        none_locked = select(func.count()).select_from(free).scalar_subquery() == (
            select(func.count()).select_from(theirs.subquery()).scalar_subquery()
        )
        place = func.row_number().over(order_by=free.c.turn)
        new = select(free.c.walk_id, free.c.number, (first - 1 + place).label("turn")).subquery()
        changed = session.execute(
            update(Chunk)
            .where(Chunk.walk_id == new.c.walk_id, Chunk.number == new.c.number, turn > new.c.turn, none_locked)
            .values(turn=new.c.turn)
            .returning(Chunk.number)
            .execution_options(synchronize_session=False)
        )
        moved += len(changed.all())
    return moved


def delete_idle(session: Session) -> None:
    """Forget parties that would start at the turn that is being served now in any case."""
    session.execute(
        delete(Party).where(Party.next_turn < _now(Party.model)).execution_options(synchronize_session=False)
    )


def _now(model: object) -> ColumnElement[int]:
    """Return the turn of a model that is being served now: the least of those queued.

    With nothing queued it is the latest that was ever drawn, as far as that is remembered: everybody is level then.
    """
    waiting, known = aliased(Chunk), aliased(Party)
    served = select(func.min(waiting.turn)).where(_queued(waiting, model)).correlate(Party).scalar_subquery()
    latest = select(func.max(known.next_turn)).where(known.model == model).correlate(Party).scalar_subquery()
    now: ColumnElement[int] = func.coalesce(served, latest, 0)
    return now


def _queued(chunk: type[Chunk], model: object = None) -> ColumnElement[bool]:
    """Return the condition that a render chunk waits for its turn."""
    waits = and_(chunk.status == ChunkStatus.QUEUED, chunk.kind == ChunkKind.RENDER, chunk.rank != LOST)
    return waits if model is None else and_(waits, chunk.model == model)
