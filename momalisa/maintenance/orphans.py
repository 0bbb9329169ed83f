"""Orphans: objects in the bucket that belong to no walk; they are found and deleted page by page.

An upload that finishes after its walk was removed, or after its worker has lost its lease, leaves an object that no
row refers to.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import Session

from momalisa.db.models import Artifact, Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ACTIVE
from momalisa.storage import bucket
from momalisa.storage.bucket import ListedObject

PAGE = 500
"""Number of objects that are checked per round."""

AGE = timedelta(hours=1)
"""Younger objects may be about to be recorded."""

PAUSE_SECONDS = 3600
"""Pause between two scans."""


class OrphanScan:
    """Scans the bucket repeatedly, from its first object to its last."""

    def __init__(self, *, page: int = PAGE, age: timedelta = AGE) -> None:
        self._page = page
        self._age = age
        self._after = ""
        self._resumes = time.monotonic()

    def delete_next_page(self) -> int:
        """Delete the orphans of the next page, and return their number.

        Raises:
            StoreUnavailableError: if PostgreSQL cannot be reached.
            google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or is unavailable.
        """
        if time.monotonic() < self._resumes:
            return 0
        page = bucket.list_objects("walks/", start=self._after, limit=self._page)
        old = [each for each in page if each.created_at <= datetime.now(UTC) - self._age]
        with transaction() as session:
            orphans = _orphans(session, old, self._age)
        for orphan in orphans:
            bucket.delete(orphan.name, generation=orphan.generation)
        if len(page) < self._page:
            self._after, self._resumes = "", time.monotonic() + PAUSE_SECONDS
        else:
            self._after = page[-1].name
        return len(orphans)


def _orphans(session: Session, objects: Iterable[ListedObject], age: timedelta) -> list[ListedObject]:
    """Return the objects that belong to no walk.

    The objects of a walk are no orphans while something may still be recorded for it. If the database has no walks
    at all, there are no orphans: it may be the wrong database for this bucket.
    """
    by_walk: dict[UUID, list[ListedObject]] = {}
    for each in objects:
        if (walk_id := _walk_of(each.name)) is not None:
            by_walk.setdefault(walk_id, []).append(each)
    if not by_walk or session.scalar(select(Walk.id).limit(1)) is None:
        return []
    known = set(session.scalars(select(Walk.id).where(Walk.id.in_(by_walk))))
    finished = set(
        session.scalars(
            select(Walk.id).where(
                Walk.id.in_(known),
                Walk.status.not_in(ACTIVE),
                Walk.finished_at <= func.now() - age,
                Walk.deleted_at.is_(None),
                Walk.secret_changed_at.is_(None),
            )
        )
    )
    names = [select(table.object).where(table.walk_id.in_(finished)) for table in (Frame, Artifact)]
    recorded = set(session.scalars(union_all(*names)))
    return [
        each
        for walk_id, of_walk in by_walk.items()
        for each in of_walk
        if walk_id not in known or (walk_id in finished and each.name not in recorded)
    ]


def _walk_of(name: str) -> UUID | None:
    """Return the walk id in the name of an object, or None if there is none."""
    try:
        return UUID(name.split("/")[1])
    except ValueError:
        return None
