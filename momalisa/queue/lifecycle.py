"""The life of a walk in the queue: its chunks are enqueued, and it ends when it fails or is canceled.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits. Rows are locked in
one order, chunks by number and then the walk, so that transactions cannot deadlock. Only chunks that wait are
locked after the walk, when the one that they wait for is recorded: its number is lower.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from momalisa.db import notifications
from momalisa.db.models import Chunk, Frame, Walk
from momalisa.db.session import record_after_commit
from momalisa.domain.pins import Batch
from momalisa.domain.states import ACTIVE, UNFINISHED, ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import budgets, fairness
from momalisa.settings import settings
from momalisa.telemetry import metrics
from momalisa.webhooks import deliveries

MISSING = and_(Frame.object.is_(None), Frame.flagged.is_(None))
"""The condition that a frame is still to be made."""


class Ready(NamedTuple):
    """Chunks that can be claimed after the commit, when the caller publishes a wake-up message for each."""

    kind: ChunkKind
    number: int = 1
    model: str | None = None
    """Of chunks to render."""


def enqueue(
    session: Session,
    walk_id: UUID,
    tenant: str,
    model: str,
    batches: Sequence[Batch],
    *,
    exact: bool,
    start: int = 0,
    errors: Mapping[float, float] | None = None,
) -> Ready:
    """Add batches of frames to a walk as chunks, at the next virtual times of its tenant.

    Args:
        session: of the caller.
        walk_id: of the walk.
        tenant: of the chunks.
        model: of the walk.
        batches: each becomes a chunk; those of later passes may have to wait (`settle_waiting`).
        exact: whether all frames of the walk are denoised, so that none depends on others.
        start: number of the first of these chunks: 0 for a new walk.
        errors: the expected error of interpolated frames, by position, where it is known.
    """
    numbers = range(start, start + len(batches))
    errors = errors or {}
    pass_starts = [0] * len(batches) if exact else _pass_starts(batches, start)
    times = fairness.next_virtual_times(session, tenant, model, len(batches))
    session.execute(
        insert(Chunk).values(
            [
                {
                    "walk_id": walk_id,
                    "number": number,
                    "kind": ChunkKind.RENDER,
                    "interpolated": batch.interpolated,
                    "pass_start": pass_start,
                    "tenant": tenant,
                    "model": model,
                    "virtual_time": times.first + index,
                    "priority": fairness.NORMAL if index else times.priority,
                    "batch_size": batch.size,
                }
                for index, (number, batch, pass_start) in enumerate(zip(numbers, batches, pass_starts, strict=True))
            ]
        )
    )
    session.execute(  # one statement for all rows: executemany would send one for each
        insert(Frame).values(
            [
                {"walk_id": walk_id, "position": position, "chunk": number, "error": errors.get(position)}
                for number, batch in zip(numbers, batches, strict=True)
                for position in batch.positions
            ]
        )
    )
    return Ready(ChunkKind.RENDER, len(batches), model)


def _pass_starts(batches: Sequence[Batch], start: int) -> list[int]:
    """Return for each batch the number of the first chunk of its pass: of those in a row that are made alike."""
    firsts = [start]
    for index, (before, batch) in enumerate(pairwise(batches), start + 1):
        firsts.append(firsts[-1] if before.interpolated == batch.interpolated else index)
    return firsts


def settle_waiting(session: Session, walk_id: UUID) -> int:
    """Let chunks of a walk wait while frames of earlier passes are missing, and queue those that no longer have to.

    Their frames are interpolated between frames of earlier passes, or checked against such an interpolation. A
    worker that holds such a chunk loses its lease; the attempt does not count.

    Returns:
        The number of chunks that no longer have to wait.
    """
    earlier = and_(Frame.walk_id == Chunk.walk_id, Frame.chunk < Chunk.pass_start)
    missing = select(Frame.position).where(earlier, MISSING).correlate(Chunk).exists()
    settled = session.execute(
        update(Chunk)
        .where(Chunk.walk_id == walk_id, Chunk.pass_start > 0)
        .where(
            or_(
                Chunk.status == ChunkStatus.WAITING,
                and_(Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]), missing),
            )
        )
        .values(
            status=case((missing, ChunkStatus.WAITING), else_=ChunkStatus.QUEUED),
            lease_token=None,
            lease_expires_at=None,
            attempts=case((Chunk.status == ChunkStatus.LEASED, Chunk.attempts - 1), else_=Chunk.attempts),
            priority=case((fairness.clock_has_passed(), fairness.RETRY), else_=Chunk.priority),
        )
        .returning(Chunk.status)
    )
    return sum(status == ChunkStatus.QUEUED for status in settled.scalars())


def settle_stuck(session: Session) -> int:
    """Settle walks of which chunks wait and none is queued or leased; return how many chunks that queued.

    The one that records the last frame they wait for queues them, unless it is a worker of a release that knows of
    none that wait.
    """
    other = aliased(Chunk)
    active = other.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED])
    stuck = session.scalars(
        select(Chunk.walk_id)
        .where(Chunk.status == ChunkStatus.WAITING)
        .where(~select(other.number).where(other.walk_id == Chunk.walk_id, active).exists())
        .distinct()
        .order_by(Chunk.walk_id)
    ).all()
    queued = 0
    for walk_id in stuck:
        lock_chunks(session, walk_id)
        queued += settle_waiting(session, walk_id)
    return queued


def release_values(status: ChunkStatus) -> dict[str, object]:
    """Return the values of a chunk whose lease ends; if it is queued again, it comes before new chunks."""
    return {"status": status, "lease_token": None, "lease_expires_at": None, "priority": fairness.RETRY}


_FAILURES = {
    ChunkKind.RENDER: ("render_failed", "A part of this walk could not be rendered"),
    ChunkKind.ASSEMBLE: ("assembly_failed", "The files of this walk could not be made"),
}


def fail_walk(session: Session, walk_id: UUID, kind: ChunkKind, *, deterministic: bool = False) -> None:
    """Fail a walk because of one of its chunks; the cause is for operators, on the chunk and in the log.

    Args:
        session: of the caller.
        walk_id: of the walk.
        kind: of the chunk that failed.
        deterministic: whether the same error occurred twice, rather than MAX_ATTEMPTS errors of any kind.
    """
    code, sentence = _FAILURES[kind]
    message = f"{sentence}, although it was tried {settings().max_attempts} times."
    if deterministic:
        message = f"{sentence}: the same error occurs each time. Try other settings."
    end_walk(session, walk_id, WalkStatus.FAILED, error_code=code, error_message=message)


def end_walk(session: Session, walk_id: UUID, status: WalkStatus, **values: str) -> bool:
    """End a walk that is active, and drop its unfinished chunks; their workers lose the lease.

    Returns:
        False if the walk has ended already; then nothing changes.
    """
    lock_chunks(session, walk_id)
    ended = session.execute(
        update(Walk)
        .where(Walk.id == walk_id, Walk.status.in_(ACTIVE))
        .values(status=status, finished_at=func.now(), **notifications.changed(session, walk_id), **values)
        .returning(age_seconds(), Walk.spec)
    ).one_or_none()
    if ended is None:
        return False
    age, spec = ended
    record_end(session, status, age)
    budgets.settle(session, walk_id, spec)
    session.execute(
        update(Chunk)
        .where(Chunk.walk_id == walk_id, Chunk.status.in_(UNFINISHED))
        .values(**release_values(ChunkStatus.DROPPED), finished_at=func.now())
    )
    deliveries.enqueue(session, walk_id, status)
    return True


def age_seconds() -> ColumnElement[float]:
    """Return the seconds since a walk was submitted; 0 if PostgreSQL's clock was set back since."""
    age: ColumnElement[float] = func.greatest(func.extract("epoch", func.now() - Walk.created_at), 0)
    return age


def record_end(session: Session, status: WalkStatus, seconds: float) -> None:
    """Count the end of a walk after the commit.

    Args:
        session: of the caller.
        status: with which it ended.
        seconds: since its submission.
    """
    record_after_commit(session, metrics.WALK_SECONDS, float(seconds), status=status)


def lock_chunks(session: Session, walk_id: UUID) -> None:
    """Lock all chunks of a walk by number, including those that are added while this waits for a lock."""
    locked = None
    in_order = select(Chunk.number).where(Chunk.walk_id == walk_id).order_by(Chunk.number)
    while locked != (found := session.scalars(in_order.with_for_update()).all()):
        locked = found
