"""What operators do about work that fails: look at it, have it tried again, stop all of it for a while."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.orm import Session, undefer

from momalisa import chunks, notices
from momalisa.errors import WalkNotFoundError, WalkOverError
from momalisa.tables import Chunk, ChunkKind, ChunkStatus, Pause, Walk, WalkStatus, WebhookDelivery


def chunks_of(session: Session, walk_id: UUID) -> Sequence[Chunk]:
    """Return the chunks of a walk in their order, with the history of their attempts.

    Raises:
        WalkNotFoundError: if there is no such walk.
    """
    _status(session, walk_id)
    in_order = select(Chunk).where(Chunk.walk_id == walk_id).order_by(Chunk.number)
    return session.scalars(in_order.options(undefer(Chunk.history))).all()


def retry(session: Session, walk_id: UUID) -> None:
    """Queue a failed walk again: what is missing is tried as if for the first time, what is there stays.

    A deadline that was set for it no longer counts. Whoever asked to be told of its end is told again.

    Raises:
        WalkNotFoundError: if there is no such walk.
        WalkOverError: if it has not failed.
    """
    chunks.lock(session, walk_id)
    status = _status(session, walk_id)
    if status != WalkStatus.FAILED:
        raise WalkOverError(f"Only a failed walk can be tried again; this one is {status}.")
    kinds = session.scalars(
        update(Chunk)
        .where(Chunk.walk_id == walk_id, Chunk.status.in_([ChunkStatus.FAILED, ChunkStatus.DROPPED]))
        .values(
            **chunks.released(ChunkStatus.QUEUED),
            attempts=0,
            error=None,
            failed_by=[],
            due_at=func.now(),
            finished_at=None,
        )
        .returning(Chunk.kind)
    ).all()
    assembling = ChunkKind.ASSEMBLE in kinds and ChunkKind.RENDER not in kinds
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.walk_id == walk_id))
    session.execute(
        update(Walk)
        .where(Walk.id == walk_id)
        .values(
            status=WalkStatus.ASSEMBLING if assembling else WalkStatus.RUNNING,
            error_code=None,
            error_message=None,
            finished_at=None,
            deadline_at=None,
            **notices.changed(session, walk_id),
        )
    )


def pause(session: Session) -> None:
    """Have no worker claim anything from now on; what they have they finish."""
    session.execute(insert(Pause).from_select(["since"], select(func.now()).where(~exists(select(Pause.since)))))


def resume(session: Session) -> None:
    """Have workers claim again."""
    session.execute(delete(Pause))


def _status(session: Session, walk_id: UUID) -> WalkStatus:
    status = session.scalar(select(Walk.status).where(Walk.id == walk_id, Walk.deleted_at.is_(None)))
    if status is None:
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    return status
