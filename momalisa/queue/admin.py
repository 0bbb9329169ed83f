"""Operations on the queue: inspect the chunks of a walk, retry a failed walk, pause all claims.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import case, delete, exists, func, insert, select, update
from sqlalchemy.orm import Session, undefer

from momalisa.db import notifications
from momalisa.db.models import Chunk, Pause, Walk, WebhookDelivery
from momalisa.db.session import rowcount
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.errors import WalkEndedError, WalkNotFoundError
from momalisa.queue import fairness, lifecycle


def chunks_of(session: Session, walk_id: UUID) -> Sequence[Chunk]:
    """Return the chunks of a walk in their order, with the history of their attempts.

    Raises:
        WalkNotFoundError: if there is no such walk.
    """
    _status(session, walk_id)
    in_order = select(Chunk).where(Chunk.walk_id == walk_id).order_by(Chunk.number)
    return session.scalars(in_order.options(undefer(Chunk.history))).all()


def retry(session: Session, walk_id: UUID) -> None:
    """Queue a failed walk again: chunks that are not done get fresh attempts, recorded frames stay.

    The chunks get the next virtual times of their tenant, so that a large walk delays no other. The deadline of the
    walk is cleared, and its webhook is sent again when it ends.

    Raises:
        WalkNotFoundError: if there is no such walk.
        WalkEndedError: if it has not failed, or has no chunk to retry.
    """
    lifecycle.lock_chunks(session, walk_id)
    status = _status(session, walk_id)
    if status != WalkStatus.FAILED:
        raise WalkEndedError(f"Only a failed walk can be retried; this one is {status}.")
    undone = session.scalars(
        select(Chunk)
        .where(Chunk.walk_id == walk_id, Chunk.status.in_([ChunkStatus.FAILED, ChunkStatus.DROPPED]))
        .order_by(Chunk.number)
    ).all()
    renders = [chunk for chunk in undone if chunk.kind == ChunkKind.RENDER]
    if not undone:
        raise WalkEndedError("This walk cannot be retried: all its frames were rendered, and none may be shown.")
    retried = renders or undone[-1:]  # rendered frames enqueue a new assembly; only else is the last one repeated
    resumed = case((Walk.started_at.is_(None), WalkStatus.QUEUED), else_=WalkStatus.RUNNING)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.walk_id == walk_id))
    queued = session.execute(
        update(Walk)
        .where(Walk.id == walk_id, Walk.status == WalkStatus.FAILED)
        .values(
            status=resumed if renders else WalkStatus.ASSEMBLING,
            error_code=None,
            error_message=None,
            finished_at=None,
            deadline_at=None,
            **notifications.changed(session, walk_id),
        )
    )
    if not rowcount(queued):
        raise WalkEndedError("This walk has expired in the meantime, so it cannot be retried.")
    # Of chunks that are done, too: an assembly may find their frames damaged.
    session.execute(update(Chunk).where(Chunk.walk_id == walk_id).values(attempts=0))
    session.execute(
        update(Chunk)
        .where(Chunk.walk_id == walk_id, Chunk.number.in_([chunk.number for chunk in retried]))
        .values(
            **lifecycle.release_values(ChunkStatus.QUEUED),
            error=None,
            failed_on=[],
            scheduled_at=func.now(),
            finished_at=None,
        )
    )
    if renders:
        lifecycle.settle_waiting(session, walk_id)
        _assign_virtual_times(session, renders)


def _assign_virtual_times(session: Session, queued: Sequence[Chunk]) -> None:
    """Give chunks of one walk, in their order, the next virtual times of their tenant."""
    model = session.execute(select(Walk.model).where(Walk.id == queued[0].walk_id)).scalar_one()
    times = fairness.next_virtual_times(session, queued[0].tenant, model, len(queued))
    for index, chunk in enumerate(queued):
        session.execute(
            update(Chunk)
            .where(Chunk.walk_id == chunk.walk_id, Chunk.number == chunk.number)
            .values(
                model=model, virtual_time=times.first + index, priority=fairness.NORMAL if index else times.priority
            )
        )


def pause(session: Session) -> None:
    """Stop all claims; workers finish the chunks that they hold."""
    session.execute(insert(Pause).from_select(["since"], select(func.now()).where(~exists(select(Pause.since)))))


def resume(session: Session) -> None:
    """Allow claims again."""
    session.execute(delete(Pause))


def _status(session: Session, walk_id: UUID) -> WalkStatus:
    status = session.scalar(select(Walk.status).where(Walk.id == walk_id, Walk.deleted_at.is_(None)))
    if status is None:
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    return status
