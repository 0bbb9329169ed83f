"""The end of walks: deadlines, expiry, and the removal of their objects and rows."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from time import monotonic
from uuid import UUID

import requests
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from sqlalchemy import and_, delete, func, insert, or_, select, text, update
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.models import GONE, Tombstone, Walk, WebhookDelivery
from momalisa.db.session import rowcount, transaction
from momalisa.domain.states import ACTIVE, DeliveryStatus, WalkStatus
from momalisa.queue import lifecycle
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.telemetry.logging import cause, logger

log = logger(__name__)

AT_ONCE = 64
"""Walks per round; if there are more, the next round follows immediately."""

THREADS = 8
"""Walks whose objects are removed concurrently, each object by one request."""

ROUND_SECONDS = 60
"""After this time a round starts no more removals; one request to a hanging bucket may take two minutes."""

RETRY_AFTER = timedelta(minutes=5)
"""Time until the removal of a walk is retried, if it failed or its row has to stay."""

TOMBSTONE_AGE = timedelta(days=365)
"""Lifetime of the tombstone of an expired walk."""

_WEBHOOK_PENDING = (
    select(WebhookDelivery.id)
    .where(WebhookDelivery.walk_id == Walk.id, WebhookDelivery.status == DeliveryStatus.PENDING)
    .exists()
)
"""Condition that the webhook of a walk has not been delivered yet."""


def end_overdue(session: Session) -> int:
    """Fail up to `AT_ONCE` walks that are past their deadline, and return how many."""
    overdue = session.scalars(
        select(Walk.id)
        .where(Walk.deadline_at < func.now(), Walk.status.in_(ACTIVE), Walk.finished_at.is_(None))
        .order_by(Walk.deadline_at)
        .limit(AT_ONCE)
    ).all()
    message = "This walk was not finished before its deadline."
    for walk_id in sorted(overdue):  # the order in which all transactions lock several walks
        lifecycle.end_walk(
            session, walk_id, WalkStatus.FAILED, error_code="deadline_exceeded", error_message=message
        )
    return len(overdue)


def expire(session: Session) -> int:
    """Mark up to `AT_ONCE` walks that finished RETENTION_DAYS ago as expired, and return how many."""
    old = Walk.finished_at < func.now() - timedelta(days=settings().retention_days)
    chosen = (
        select(Walk.id)
        .where(old, Walk.purged_at.is_(None), Walk.status != WalkStatus.EXPIRED)
        .order_by(Walk.finished_at)
        .limit(AT_ONCE)
    )
    walks = session.scalars(chosen.with_for_update(skip_locked=True)).all()
    session.execute(
        update(Walk)
        .where(Walk.id.in_(walks))
        .values(status=WalkStatus.EXPIRED, **notifications.changed(session, *walks))
        .execution_options(synchronize_session=False)
    )
    return len(walks)


def remove() -> tuple[int, bool]:
    """Remove up to `AT_ONCE` deleted and expired walks: their objects, then their rows.

    A row is deleted after the objects, so that nothing remains if this process dies in between, and after the
    webhook of the walk was delivered. A deleted walk is left alone for LEASE_SECONDS, until its workers have lost
    their leases. A walk whose objects cannot be removed delays no other, and is retried later.

    Returns:
        The number of walks whose objects were removed, and whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if this failed for every walk that was tried.
        google.auth.exceptions.GoogleAuthError: likewise, because the credentials are refused.
        requests.RequestException: likewise, because the bucket cannot be reached.
    """
    with transaction() as session:
        gone = _take_gone(session)
    if not gone:
        return 0, False
    with ThreadPoolExecutor(THREADS) as pool:
        ends = list(pool.map(partial(_remove_objects, until=monotonic() + ROUND_SECONDS), gone))
    empty = [walk_id for walk_id, end in zip(gone, ends, strict=True) if end is None]
    unfinished = [walk_id for walk_id, end in zip(gone, ends, strict=True) if isinstance(end, _TimeIsUp)]
    failed = next((end for end in ends if end is not None and not isinstance(end, _TimeIsUp)), None)
    with transaction() as session:
        if empty:
            _remove_rows(session, empty)
        # These are retried in the next round, after walks that were never tried.
        soon = gone if failed and not empty else unfinished
        session.execute(update(Walk).where(Walk.id.in_(soon)).values(purge_after=func.now()))
    if failed and not empty:
        raise failed
    return len(empty), len(gone) == AT_ONCE or bool(unfinished)


def _take_gone(session: Session) -> Sequence[UUID]:
    """Return walks to remove, never tried ones first, and reserve them for RETRY_AFTER."""
    leases_lost = Walk.deleted_at < func.now() - timedelta(seconds=settings().lease_seconds)
    gone = session.scalars(
        select(Walk.id)
        .where(text(f"({GONE})"), or_(Walk.purge_after.is_(None), Walk.purge_after <= func.now()))
        .where(or_(leases_lost, Walk.deleted_at.is_(None)))
        .order_by(Walk.purge_after.nulls_first())
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    session.execute(update(Walk).where(Walk.id.in_(gone)).values(purge_after=func.now() + RETRY_AFTER))
    return gone


class _TimeIsUp(Exception):  # noqa: N818
    """The round has lasted for ROUND_SECONDS."""


def _remove_objects(walk_id: UUID, until: float) -> Exception | None:
    def check() -> None:
        if monotonic() >= until:
            raise _TimeIsUp

    try:
        check()
        bucket.delete_all(bucket.folder_name(walk_id), check=check)
    except _TimeIsUp as end:
        return end
    except (GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
        log.warning("objects not removed", walk=str(walk_id), reason=str(error), cause=cause(error))
        return error
    return None


def _remove_rows(session: Session, walks: Sequence[UUID]) -> None:
    for walk_id in sorted(walks):
        lifecycle.lock_chunks(session, walk_id)  # before the walk, as all transactions do
    public = and_(Walk.public, Walk.hidden_at.is_(None)).label("public")
    expired_at = func.coalesce(Walk.purged_at, func.now()).label("expired_at")
    removed = session.execute(
        delete(Walk)
        .where(Walk.id.in_(walks), ~_WEBHOOK_PENDING)
        .returning(Walk.id.label("walk_id"), Walk.owner, public, expired_at, Walk.deleted_at)
        .execution_options(synchronize_session=False)
    ).mappings()
    columns = ("walk_id", "owner", "public", "expired_at")
    expired = [{column: row[column] for column in columns} for row in removed if row["deleted_at"] is None]
    if expired:
        session.execute(insert(Tombstone), expired)
    session.execute(update(Walk).where(Walk.id.in_(walks)).values(purged_at=func.now()))


def delete_old_tombstones(session: Session) -> int:
    """Delete up to 1,000 tombstones of walks that expired a year ago, and return how many."""
    old = select(Tombstone.walk_id).where(Tombstone.expired_at < func.now() - TOMBSTONE_AGE).limit(1000)
    return rowcount(session.execute(delete(Tombstone).where(Tombstone.walk_id.in_(old))))
