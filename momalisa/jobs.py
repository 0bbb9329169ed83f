"""Walks as visitors know them: every query and state change of a walk but those of its chunks (`chunks.py`).

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import and_, func, insert, select, tuple_
from sqlalchemy.orm import Session, selectinload

from momalisa import chunks
from momalisa import walk as maths
from momalisa.errors import WalkNotFoundError, WalkOverError
from momalisa.settings import settings
from momalisa.spec import WalkSpec
from momalisa.tables import Chunk, ChunkKind, ChunkStatus, Frame, Walk, WalkStatus


def create(session: Session, spec: WalkSpec, *, public: bool, owner: str) -> Walk:
    """Write a walk, its chunks and its frames. The caller publishes permits after the commit."""
    walk = Walk(
        id=uuid4(),
        owner=owner,
        public=public,
        spec=spec,
        model=settings().model_name,
        frames_total=spec.frames,
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
    """
    walk = session.get(Walk, walk_id, options=[selectinload(Walk.frames), selectinload(Walk.artifacts)])
    if walk is None:
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    return walk


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


def revision(session: Session, walk_id: UUID) -> int:
    """Return a number that grows with every change of a walk that a client can see.

    Raises:
        WalkNotFoundError: if there is none with this id.
    """
    found = session.execute(select(Walk.revision).where(Walk.id == walk_id)).scalar_one_or_none()
    if found is None:
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    return found


def page(
    session: Session, *, limit: int, before: tuple[datetime, UUID] | None, status: WalkStatus | None
) -> Sequence[Walk]:
    """Return up to `limit` public walks, newest first, with their artifacts.

    `before` is the time of creation and the id of the last walk of the page before.
    """
    query = (
        select(Walk)
        .where(Walk.public)
        .order_by(Walk.created_at.desc(), Walk.id.desc())
        .limit(limit)
        .options(selectinload(Walk.artifacts))
    )
    if before is not None:
        query = query.where(tuple_(Walk.created_at, Walk.id) < before)
    if status is not None:
        query = query.where(Walk.status == status)
    return session.scalars(query).all()
