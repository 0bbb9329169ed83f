"""Walks as visitors know them: every query and state change of a walk but those of its chunks (`chunks.py`).

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import and_, func, insert, select, tuple_, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session, selectinload

from momalisa import chunks
from momalisa import walk as maths
from momalisa.errors import WalkExpiredError, WalkNotFoundError, WalkOverError
from momalisa.settings import settings
from momalisa.spec import WalkSpec
from momalisa.tables import Chunk, ChunkKind, ChunkStatus, Frame, IdempotencyKey, Walk, WalkStatus


def create(
    session: Session,
    spec: WalkSpec,
    *,
    public: bool,
    owner: str,
    deadline_seconds: int | None = None,
    webhook_url: str | None = None,
) -> Walk:
    """Write a walk, its chunks and its frames. The caller publishes permits after the commit."""
    walk = Walk(
        id=uuid4(),
        owner=owner,
        public=public,
        spec=spec,
        model=settings().model_name,
        frames_total=spec.frames,
        deadline_at=None if deadline_seconds is None else func.now() + timedelta(seconds=deadline_seconds),
        webhook_url=webhook_url,
    )
    session.add(walk)
    session.flush()
    positions = maths.positions(spec.frames, len(spec.prompts))
    batches = maths.chunks(spec.frames, settings().batch_size)
    turns = {rank: _next_turn(session, owner, rank) for rank in (1, 2)}
    session.execute(
        insert(Chunk),
        [
            {
                "walk_id": walk.id,
                "number": number,
                "kind": ChunkKind.RENDER,
                "owner": owner,
                "rank": 2 if number else 1,
                "turn": turns[2] + number - 1 if number else turns[1],
            }
            for number in range(len(batches))
        ],
    )
    session.execute(
        insert(Frame),
        [
            {"walk_id": walk.id, "position": positions[index], "chunk": number}
            for number, indices in enumerate(batches)
            for index in indices
        ],
    )
    session.refresh(walk)
    return walk


def _next_turn(session: Session, owner: str, rank: int) -> int:
    """Return the turn of an owner's next chunk in a class of the queue, by start-time fair queueing.

    An owner's chunks take turns one after the other, and an owner who had nothing waiting starts at the turn that
    is being served now. So whoever asks for little waits little, however much others have waiting.
    Source: Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
    """
    queued = and_(Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.rank == rank)
    served = select(func.min(Chunk.turn)).where(queued).scalar_subquery()
    last = select(func.max(Chunk.turn)).where(queued, Chunk.owner == owner).scalar_subquery()
    turn: int = session.execute(select(func.greatest(served, last + 1, 0))).scalar_one()
    return turn


def get(session: Session, walk_id: UUID) -> Walk:
    """Return a walk with its frames and artifacts.

    Raises:
        WalkNotFoundError: if there is none with this id.
        WalkExpiredError: if it is past its retention.
    """
    walk = session.scalars(
        select(Walk)
        .where(Walk.id == walk_id, Walk.deleted_at.is_(None))
        .options(selectinload(Walk.frames), selectinload(Walk.artifacts))
    ).one_or_none()
    _refuse_what_is_gone(walk_id, None if walk is None else walk.status)
    assert walk
    return walk


@dataclass(frozen=True)
class Glimpse:
    """As much of a walk as it takes to know whether to look closer."""

    revision: int
    """Grows with every change that a client can see."""
    status: WalkStatus
    age_seconds: float


def glimpse(session: Session, walk_id: UUID) -> Glimpse:
    """Return the revision and the status of a walk, by one query for one row.

    Raises:
        WalkNotFoundError: if there is none with this id.
        WalkExpiredError: if it is past its retention.
    """
    age = func.extract("epoch", func.now() - Walk.created_at).label("age")
    row = session.execute(
        select(Walk.revision, Walk.status, age).where(Walk.id == walk_id, Walk.deleted_at.is_(None))
    ).one_or_none()
    _refuse_what_is_gone(walk_id, None if row is None else row.status)
    assert row
    return Glimpse(row.revision, row.status, float(row.age))


def _refuse_what_is_gone(walk_id: UUID, status: WalkStatus | None) -> None:
    if status is None:
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    if status == WalkStatus.EXPIRED:
        raise WalkExpiredError(
            f"The walk {walk_id} is expired: its files were kept for {settings().retention_days:g} days."
        )


def cancel(session: Session, walk_id: UUID) -> Walk:
    """Stop a walk and return it; the frames that are there stay. Canceling a canceled walk changes nothing.

    Raises:
        WalkNotFoundError: if there is none with this id.
        WalkOverError: if it has ended otherwise.
    """
    walk = get(session, walk_id)
    if not chunks.end(session, walk_id, WalkStatus.CANCELED):
        session.refresh(walk, ["status"])
        if walk.status != WalkStatus.CANCELED:
            raise WalkOverError(f"The walk {walk_id} can no longer be canceled: it is {walk.status.value}.")
    session.refresh(walk)
    return walk


def delete(session: Session, walk_id: UUID) -> None:
    """Remove a walk: nobody sees it from now on, and `remove_objects` does the rest.

    Raises:
        WalkNotFoundError: if there is none with this id.
        WalkExpiredError: if it is past its retention.
    """
    get(session, walk_id)
    chunks.end(session, walk_id, WalkStatus.CANCELED)
    session.execute(update(Walk).where(Walk.id == walk_id).values(deleted_at=func.now()))
    session.execute(sql_delete(IdempotencyKey).where(IdempotencyKey.walk_id == walk_id))


def page(
    session: Session, *, limit: int, before: tuple[datetime, UUID] | None, status: WalkStatus | None
) -> Sequence[Walk]:
    """Return up to `limit` public walks, newest first, with their artifacts.

    `before` is the time of creation and the id of the last walk of the page before.
    """
    query = (
        select(Walk)
        .where(Walk.public, Walk.deleted_at.is_(None), Walk.status != WalkStatus.EXPIRED)
        .order_by(Walk.created_at.desc(), Walk.id.desc())
        .limit(limit)
        .options(selectinload(Walk.artifacts))
    )
    if before is not None:
        query = query.where(tuple_(Walk.created_at, Walk.id) < before)
    if status is not None:
        query = query.where(Walk.status == status)
    return session.scalars(query).all()
