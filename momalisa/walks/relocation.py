"""The files of walks that are no longer shown to everyone: moved to names that only those find who may see them.

A walk that is hidden or made private gets another secret (`begin`), and a mark. Then its objects are copied to
their names under that secret, the new names are recorded, and the old objects removed (`move`). Each step can be
done again, so that it does not matter where a process dies.

A worker that claimed a chunk before knows only the old secret, and may go on under it: what it records is moved,
too. So the mark stays as long as such a claim does; after that nothing can be recorded under the old secret.
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
"""Walks that are dealt with in one round."""

OLD_URLS_SECONDS = 60
"""How long the URLs from before may work on."""

THREADS = 8
"""Objects that are copied at once."""

TROUBLE_SECONDS = 60
"""A round in which a walk failed goes on to others for so long: each may wait minutes for a bucket that hangs."""


@dataclass(frozen=True)
class Move:
    """What is to be done for one walk."""

    walk_id: UUID
    secret: str
    objects: tuple[StoredObject, ...]
    """Those that are recorded under other names."""

    def name(self, old: str) -> str:
        """Return the name of an object of the walk under its new secret."""
        _, slash, file = old.rpartition("/frames/")
        tail = f"frames/{file}" if slash else old.rpartition("/")[2]
        return bucket.folder_name(self.walk_id, self.secret) + tail


def begin(session: Session, walk_id: UUID) -> None:
    """Give a walk another secret, because others may no longer see it; the caller has locked its chunks."""
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
    """Return when the URLs of a walk's files stop working because they are moved, or None if they are not."""
    return walk.secret_changed_at and walk.secret_changed_at + timedelta(seconds=OLD_URLS_SECONDS)


def waiting(session: Session) -> list[UUID]:
    """Return walks whose objects are to be moved: those first that were not tried before, or the longest ago.

    Of those that were not, the latest come first, which strangers may be looking at.
    """
    order = (Walk.purge_after.nulls_first(), Walk.secret_changed_at.desc())
    return list(session.scalars(select(Walk.id).where(*_MARKED).order_by(*order).limit(AT_ONCE)))


def move_waiting() -> tuple[int, bool]:
    """Move the objects of up to `AT_ONCE` walks, each by itself: one that fails holds up no other.

    One that is not moved for good comes behind the others from then on.

    Returns:
        How many are moved for good, and whether there may be more to move at once.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        Exception: the first that a walk failed with, after the others had their turn.
    """
    with transaction() as session:
        marked = waiting(session)
    begun, moved, first = time.monotonic(), 0, None
    for walk_id in marked:
        try:
            if move(walk_id):
                moved += 1
                continue
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged, and raised in the end
            log.warning("objects not moved", walk=str(walk_id), reason=str(error), cause=cause(error))
            first = first or error
        with transaction() as session:
            session.execute(update(Walk).where(Walk.id == walk_id).values(purge_after=func.now()))
        if first and time.monotonic() - begun > TROUBLE_SECONDS:
            break
    if first:
        raise first
    return moved, moved == AT_ONCE


def move(walk_id: UUID) -> bool:
    """Move the objects of a walk, and return whether all of them are moved for good.

    Raises:
        StoreUnavailableError: if PostgreSQL cannot be reached.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or is out of order.
    """
    with transaction() as session:
        found = plan(session, walk_id)
    if found is None:
        return True
    copy(found)
    with transaction() as session:
        settled = record(session, found)
    remove(found, everything=settled)
    if settled:
        with transaction() as session:
            finish(session, found)
    return settled


def plan(session: Session, walk_id: UUID) -> Move | None:
    """Return what is to be moved, or None if nothing is."""
    secret = session.scalar(select(Walk.secret).where(Walk.id == walk_id, *_MARKED))
    return None if secret is None else Move(walk_id, secret, _elsewhere(session, walk_id, secret))


def copy(what: Move) -> None:
    """Copy the objects; one that is lost or damaged stays so, under its new name."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda each: bucket.copy(each, what.name(each.name)), what.objects):
            pass


def record(session: Session, what: Move) -> bool:
    """Record the new names, and return whether no other names can be recorded from now on."""
    lifecycle.lock_chunks(session, what.walk_id)
    if session.scalar(select(Walk.secret).where(Walk.id == what.walk_id)) != what.secret:
        return False
    for old in what.objects:
        for table in (Frame, Artifact):
            session.execute(
                update(table)
                .where(table.walk_id == what.walk_id, table.object == old.name)
                .values(object=what.name(old.name))
            )
    if what.objects:
        session.execute(
            update(Walk).where(Walk.id == what.walk_id).values(notifications.changed(session, what.walk_id))
        )
    claimed_before = select(Chunk.number).where(
        Chunk.walk_id == what.walk_id,
        Chunk.status == ChunkStatus.LEASED,
        Chunk.secret.is_distinct_from(what.secret),
    )
    return not _elsewhere(session, what.walk_id, what.secret) and session.scalars(claimed_before).first() is None


def remove(what: Move, *, everything: bool) -> None:
    """Remove the objects under old names: those whose new names are recorded, or all of them."""
    recorded: set[str] = set()
    if not everything:
        with transaction() as session:
            recorded = {each.name for each in _recorded(session, what.walk_id)}
    folder = bucket.folder_name(what.walk_id, what.secret)
    for name in bucket.list_names(bucket.folder_name(what.walk_id)):
        if not name.startswith(folder) and (everything or what.name(name) in recorded):
            bucket.delete(name)


def finish(session: Session, what: Move) -> None:
    """Take the mark off a walk, unless its secret has changed again."""
    session.execute(
        update(Walk)
        .where(Walk.id == what.walk_id, Walk.secret == what.secret)
        .values(secret_changed_at=None, **notifications.changed(session, what.walk_id))
    )


_MARKED = (
    Walk.secret_changed_at.is_not(None),
    Walk.deleted_at.is_(None),  # the objects of what is gone are removed, whatever their names
    Walk.status != WalkStatus.EXPIRED,
)


def _recorded(session: Session, walk_id: UUID) -> tuple[StoredObject, ...]:
    """Return the objects of a walk, each once: a flagged frame has that of its neighbour."""
    found: set[StoredObject] = set()
    for table in (Frame, Artifact):
        columns = select(table.object, table.bytes, table.crc32c)
        rows = session.execute(columns.where(table.walk_id == walk_id, table.object.is_not(None))).all()
        found |= {StoredObject(row.object, row.bytes, row.crc32c) for row in rows}
    return tuple(found)


def _elsewhere(session: Session, walk_id: UUID, secret: str) -> tuple[StoredObject, ...]:
    folder = bucket.folder_name(walk_id, secret)
    return tuple(each for each in _recorded(session, walk_id) if not each.name.startswith(folder))
