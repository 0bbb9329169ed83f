"""The end of walks: deadlines, expiry, and the removal of what they left in the bucket."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from momalisa import chunks, notices, storage
from momalisa.database import transaction
from momalisa.settings import settings
from momalisa.tables import ACTIVE, DeliveryStatus, Walk, WalkStatus, WebhookDelivery

AT_ONCE = 20
"""Walks that are dealt with in one round."""

_TO_BE_TOLD = (
    select(WebhookDelivery.id)
    .where(WebhookDelivery.walk_id == Walk.id, WebhookDelivery.status == DeliveryStatus.PENDING)
    .exists()
)
"""Whether a walk's end is still to be told to somebody."""


def end_overdue(session: Session) -> int:
    """Fail walks that are past their deadline, and return how many."""
    overdue = session.scalars(
        select(Walk.id)
        .where(Walk.deadline_at < func.now(), Walk.status.in_(ACTIVE), Walk.finished_at.is_(None))
        .limit(AT_ONCE)
    ).all()
    message = "This walk was not finished by the deadline that was set for it."
    return sum(
        chunks.end(session, walk_id, WalkStatus.FAILED, error_code="deadline_exceeded", error_message=message)
        for walk_id in overdue
    )


def expire(session: Session) -> None:
    """Mark walks as expired that were finished longer ago than they are kept."""
    old = Walk.finished_at < func.now() - timedelta(days=settings().retention_days)
    chosen = select(Walk.id).where(old, Walk.purged_at.is_(None), Walk.status != WalkStatus.EXPIRED).limit(AT_ONCE)
    walks = session.scalars(chosen.with_for_update(skip_locked=True)).all()
    session.execute(
        update(Walk)
        .where(Walk.id.in_(walks))
        .values(status=WalkStatus.EXPIRED, **notices.changed(session, *walks))
        .execution_options(synchronize_session=False)
    )


def remove_objects() -> int:
    """Remove the objects of deleted and expired walks, and return of how many walks.

    The row of a deleted walk goes after its objects, so that nothing is left over if this process dies in between,
    and after its end is told to whoever asked for that. A deleted walk is left alone for a lease, in which its
    workers learn that it is gone.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket is out of order.
    """
    with transaction() as session:
        gone = _gone(session)
    for walk_id in gone:
        storage.delete_all(storage.folder_name(walk_id))
        with transaction() as session:
            session.execute(delete(Walk).where(Walk.id == walk_id, Walk.deleted_at.is_not(None), ~_TO_BE_TOLD))
            session.execute(update(Walk).where(Walk.id == walk_id).values(purged_at=func.now()))
    return len(gone)


def _gone(session: Session) -> list[UUID]:
    deleted = and_(
        Walk.deleted_at < func.now() - timedelta(seconds=settings().lease_seconds),
        or_(Walk.purged_at.is_(None), ~_TO_BE_TOLD),
    )
    expired = and_(Walk.status == WalkStatus.EXPIRED, Walk.purged_at.is_(None))
    return list(session.scalars(select(Walk.id).where(or_(deleted, expired)).limit(AT_ONCE)))
