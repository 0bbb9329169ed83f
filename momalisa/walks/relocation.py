"""Relocation: the files of a walk that becomes private or hidden move, so that their old URLs stop working.

Such a walk gets a new secret (`begin`), and `secret_changed_at` marks it. Then its objects are copied to names with
that secret, the new names are recorded, and the old objects are removed (`move`). Each step can be repeated, so a
process may die at any point.

A worker that claimed a chunk earlier knows only the old secret and may still upload with it; what it records is
moved as well. So the mark stays until no such claim is left: then nothing can be recorded with the old secret.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.models import Artifact, Chunk, Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkStatus, WalkStatus
from momalisa.queue import lifecycle
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry.logging import cause, logger

log = logger(__name__)

AT_ONCE = 20
"""Walks per round."""

OLD_URLS_SECONDS = 60
"""How long old URLs may keep working."""

THREADS = 8
"""Objects copied concurrently."""

MAX_SECONDS_AFTER_FAILURE = 60
"""A round in which a walk failed ends after this time: with a bucket that hangs, each walk may take minutes."""


@dataclass(frozen=True)
class Move:
    """The objects of a walk that have to be moved."""

    walk_id: UUID
    secret: str
    objects: tuple[StoredObject, ...]
    """Objects whose recorded names lack the secret."""

    def name(self, old: str) -> str:
        """Return the name of an object with the new secret."""
        _, slash, file = old.rpartition("/frames/")
        tail = f"frames/{file}" if slash else old.rpartition("/")[2]
        return bucket.folder_name(self.walk_id, self.secret) + tail


def begin(session: Session, walk_id: UUID) -> None:
    """Give a walk a new secret, because others may no longer see it; the caller has locked its chunks."""
    session.execute(
        update(Walk)
        .where(Walk.id == walk_id)
        .values(
            secret=bucket.new_secret(),
            secret_changed_at=func.now(),
            purge_after=None,
            **notifications.changed(session, walk_id),
        )
    )


def old_urls_end(walk: Walk) -> datetime | None:
    """Return when the URLs of a walk's files stop working because the files move, or None if they do not."""
    return walk.secret_changed_at and walk.secret_changed_at + timedelta(seconds=OLD_URLS_SECONDS)


def waiting(session: Session) -> list[UUID]:
    """Return walks whose objects have to be moved: never tried ones first, then those tried longest ago.

    Of those never tried, the latest come first, because others may be viewing them at this moment.
    """
    order = (Walk.purge_after.nulls_first(), Walk.secret_changed_at.desc())
    return list(session.scalars(select(Walk.id).where(*_MARKED).order_by(*order).limit(AT_ONCE)))


def move_waiting() -> tuple[int, bool]:
    """Move the objects of up to `AT_ONCE` walks; one that fails delays no other.

    A walk that is not finished comes after the others from then on.

    Returns:
        The number of walks that are finished, and whether there may be more.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        Exception: the first error of a walk, after the others were tried.
    """
    with transaction() as session:
        marked = waiting(session)
    started, moved, first = time.monotonic(), 0, None
    for walk_id in marked:
        try:
            if move(walk_id):
                moved += 1
                continue
        except Exception as error:  # noqa: BLE001 - any error is logged, and raised at the end
            log.warning("objects not moved", walk=str(walk_id), reason=str(error), cause=cause(error))
            first = first or error
        with transaction() as session:
            session.execute(update(Walk).where(Walk.id == walk_id).values(purge_after=func.now()))
        if first and time.monotonic() - started > MAX_SECONDS_AFTER_FAILURE:
            break
    if first:
        raise first
    return moved, moved == AT_ONCE


def move(walk_id: UUID) -> bool:
    """Move the objects of a walk, and return whether it is finished: nothing more can be recorded with old names.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or is unavailable.
    """
    with transaction() as session:
        found = plan(session, walk_id)
    if found is None:
        return True
    copy(found)
    with transaction() as session:
        finished = record(session, found)
    remove(found, everything=finished)
    if finished:
        with transaction() as session:
            finish(session, found)
    return finished


def plan(session: Session, walk_id: UUID) -> Move | None:
    """Return what has to be moved, or None if the walk is not marked."""
    secret = session.scalar(select(Walk.secret).where(Walk.id == walk_id, *_MARKED))
    return None if secret is None else Move(walk_id, secret, _misplaced(session, walk_id, secret))


def copy(pending: Move) -> None:
    """Copy the objects; one that is missing or damaged remains so under its new name."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda each: bucket.copy(each, pending.name(each.name)), pending.objects):
            pass


def record(session: Session, pending: Move) -> bool:
    """Record the new names, and return whether no old names can be recorded from now on."""
    lifecycle.lock_chunks(session, pending.walk_id)
    if session.scalar(select(Walk.secret).where(Walk.id == pending.walk_id)) != pending.secret:
        return False
    for old in pending.objects:
        for table in (Frame, Artifact):
            session.execute(
                update(table)
                .where(table.walk_id == pending.walk_id, table.object == old.name)
                .values(object=pending.name(old.name))
            )
    if pending.objects:
        session.execute(
            update(Walk).where(Walk.id == pending.walk_id).values(notifications.changed(session, pending.walk_id))
        )
    claimed_before = select(Chunk.number).where(
        Chunk.walk_id == pending.walk_id,
        Chunk.status == ChunkStatus.LEASED,
        Chunk.secret.is_distinct_from(pending.secret),
    )
    return (
        not _misplaced(session, pending.walk_id, pending.secret) and session.scalars(claimed_before).first() is None
    )


def remove(pending: Move, *, everything: bool) -> None:
    """Remove the objects with old names: those whose new names are recorded, or all of them."""
    recorded: set[str] = set()
    if not everything:
        with transaction() as session:
            recorded = {each.name for each in _recorded(session, pending.walk_id)}
    folder = bucket.folder_name(pending.walk_id, pending.secret)
    for name in bucket.list_names(bucket.folder_name(pending.walk_id)):
        if not name.startswith(folder) and (everything or pending.name(name) in recorded):
            bucket.delete(name)


def finish(session: Session, pending: Move) -> None:
    """Clear the mark of a walk, unless its secret has changed again."""
    session.execute(
        update(Walk)
        .where(Walk.id == pending.walk_id, Walk.secret == pending.secret)
        .values(secret_changed_at=None, **notifications.changed(session, pending.walk_id))
    )


_MARKED = (
    Walk.secret_changed_at.is_not(None),
    Walk.deleted_at.is_(None),  # the objects of deleted walks are removed, whatever their names
    Walk.status != WalkStatus.EXPIRED,
)


def _recorded(session: Session, walk_id: UUID) -> tuple[StoredObject, ...]:
    """Return the recorded objects of a walk, each once: a flagged frame shares that of its neighbour."""
    found: set[StoredObject] = set()
    for table in (Frame, Artifact):
        columns = select(table.object, table.bytes, table.crc32c)
        rows = session.execute(columns.where(table.walk_id == walk_id, table.object.is_not(None))).all()
        found |= {StoredObject(row.object, row.bytes, row.crc32c) for row in rows}
    return tuple(found)


def _misplaced(session: Session, walk_id: UUID, secret: str) -> tuple[StoredObject, ...]:
    folder = bucket.folder_name(walk_id, secret)
    return tuple(each for each in _recorded(session, walk_id) if not each.name.startswith(folder))
