"""Reading walks: one, many, or a snapshot, restricted to what a viewer may see.

Each function works inside the transaction of its caller (`session.transaction`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, true, tuple_
from sqlalchemy.orm import Session, aliased, selectinload, with_expression
from sqlalchemy.sql.base import ExecutableOption

from momalisa import api_keys
from momalisa.db.models import Frame, Tombstone, Walk
from momalisa.domain.dense import Check
from momalisa.domain.states import WalkStatus
from momalisa.errors import WalkExpiredError, WalkNotFoundError
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.walks import search


def get(session: Session, walk_id: UUID, *, viewer: str | None) -> Walk:
    """Return a walk with its frames and artifacts.

    Raises:
        WalkNotFoundError: if there is none with this id that the viewer may see.
        WalkExpiredError: if it is past its retention.
    """
    walk = session.scalars(
        select(Walk)
        .where(Walk.id == walk_id, _visible(viewer))
        .options(selectinload(Walk.frames), selectinload(Walk.artifacts), _with_source(viewer))
        .execution_options(populate_existing=True)
    ).one_or_none()
    _refuse_if_gone(session, walk_id, None if walk is None else walk.status, viewer)
    assert walk
    return walk


@dataclass(frozen=True)
class Snapshot:
    """The state of a walk at one moment, without its contents: enough to see whether it has changed."""

    revision: int
    """Grows with every change that a client can see."""
    status: WalkStatus
    age_seconds: float


def snapshot(session: Session, walk_id: UUID, *, viewer: str | None, key: UUID | None = None) -> Snapshot:
    """Return the revision and the status of a walk, by one query for one row.

    The query also checks that the viewer's API key, if any, is still valid.

    Raises:
        InvalidKeyError: if the key is not valid.
        WalkNotFoundError: if there is none with this id that the viewer may see.
        WalkExpiredError: if it is past its retention.
    """
    age = func.extract("epoch", func.now() - Walk.created_at).label("age")
    key_valid = true() if key is None else api_keys.is_valid(key)
    row = session.execute(
        select(Walk.revision, Walk.status, age, key_valid.label("key_valid")).where(
            Walk.id == walk_id, _visible(viewer)
        )
    ).one_or_none()
    if not (row.key_valid if row else session.scalar(select(key_valid))):
        api_keys.raise_invalid()
    _refuse_if_gone(session, walk_id, None if row is None else row.status, viewer)
    assert row
    return Snapshot(row.revision, row.status, float(row.age))


@dataclass(frozen=True)
class SharedSnapshot:
    """A snapshot of a walk for all who wait for it, with everything that decides who may see it."""

    walk_id: UUID
    snapshot: Snapshot | None
    """None if there is no such walk."""
    owner: str | None
    shown: bool
    """Whether everyone may see it."""
    keys: frozenset[UUID]
    """The valid ones among the API keys of those who wait."""
    source_owner: str | None = None
    """The owner of the walk that it started from, if that still exists."""

    def shows_more_to(self, viewer: str | None) -> bool:
        """Return whether a viewer may see more of the walk than the public."""
        return viewer is not None and viewer in {self.owner, self.source_owner}

    def seen_by(self, viewer: str | None, key: UUID | None) -> Snapshot:
        """Return the snapshot for a viewer, who sent the API key `key`, if any.

        Raises:
            InvalidKeyError: if the key is not valid.
            WalkNotFoundError: if the viewer may not see the walk, or there is none.
            WalkExpiredError: if it is past its retention.
        """
        if key is not None and key not in self.keys:
            api_keys.raise_invalid()
        visible = self.snapshot if self.shown or (viewer is not None and viewer == self.owner) else None
        if visible is None:
            raise WalkNotFoundError(f"There is no walk {self.walk_id}.")
        if visible.status == WalkStatus.EXPIRED:
            raise _expired(self.walk_id)
        return visible


def shared_snapshot(session: Session, walk_id: UUID, keys: Collection[UUID]) -> SharedSnapshot:
    """Return a snapshot of a walk for all who wait for it, and which of their API keys are valid."""
    valid = api_keys.valid(session, keys) if keys else frozenset()
    age = func.extract("epoch", func.now() - Walk.created_at).label("age")
    other = aliased(Walk)
    source_owner = select(other.owner).where(other.id == Walk.from_walk).scalar_subquery().label("source_owner")
    row = session.execute(
        select(Walk.revision, Walk.status, age, Walk.owner, _shown().label("shown"), source_owner).where(
            Walk.id == walk_id, Walk.deleted_at.is_(None)
        )
    ).one_or_none()
    if row is None:
        left = session.get(Tombstone, walk_id)
        if left is None:
            return SharedSnapshot(walk_id, None, None, False, valid)
        return SharedSnapshot(walk_id, Snapshot(0, WalkStatus.EXPIRED, 0.0), left.owner, left.public, valid)
    seen = Snapshot(row.revision, row.status, float(row.age))
    return SharedSnapshot(walk_id, seen, row.owner, row.shown, valid, row.source_owner)


def _refuse_if_gone(session: Session, walk_id: UUID, status: WalkStatus | None, viewer: str | None) -> None:
    if status is None and not session.scalar(select(_was_there(walk_id, viewer))):
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    if status in {None, WalkStatus.EXPIRED}:
        raise _expired(walk_id)


def _expired(walk_id: UUID) -> WalkExpiredError:
    return WalkExpiredError(
        f"The walk {walk_id} has expired: its files were kept for {settings().retention_days:g} days."
    )


def _was_there(walk_id: UUID, viewer: str | None) -> ColumnElement[bool]:
    """Return the condition that a viewer could see a walk that has since expired."""
    could_see = or_(Tombstone.public, Tombstone.owner == viewer)
    return exists().where(Tombstone.walk_id == walk_id, could_see)


class ReusableFrame(NamedTuple):
    """A frame that another walk can copy, as it was recorded (`db.models.Frame`)."""

    position: float
    legs: int
    """Of its walk: positions of other walks mean the same only if they have as many."""
    stored: StoredObject
    thumbnail: bytes
    interpolated: bool
    latents: bool
    check: Check | None
    error: float | None


def reusable_frames(
    session: Session, walk_id: UUID, hashes: Sequence[str], *, viewer: str
) -> dict[str, ReusableFrame]:
    """Return the frames of a walk that have one of these content hashes, by hash.

    The result is empty if the viewer may not see the walk, or it has expired.
    """
    there = (Walk.id == walk_id, _visible(viewer), Walk.status != WalkStatus.EXPIRED)
    spec = session.scalar(select(Walk.spec).where(*there))
    if spec is None:
        return {}
    found = session.execute(
        select(
            *(Frame.position, Frame.content_hash, Frame.object, Frame.bytes, Frame.crc32c, Frame.thumbnail),
            *(Frame.interpolated, Frame.latents, Frame.check, Frame.error),
        ).where(Frame.walk_id == walk_id, Frame.content_hash.in_(hashes), Frame.object.is_not(None))
    )
    return {
        frame.content_hash: ReusableFrame(
            frame.position,
            spec.legs,
            StoredObject(frame.object, frame.bytes, frame.crc32c),
            frame.thumbnail,
            frame.interpolated,
            frame.latents,
            frame.check,
            frame.error,
        )
        for frame in found
    }


def list_walks(
    session: Session,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None,
    status: WalkStatus | None,
    viewer: str | None,
    owner: str | None = None,
    source: UUID | None = None,
    text: str = "",
) -> Sequence[Walk]:
    """Return up to `limit` walks, newest first, with their artifacts.

    These are all walks of an owner, or those started from `source`, if the viewer may see them and it, or else the
    public ones.

    `before` is the creation time and the id of the last walk of the previous page. With `text`, one of the prompts
    must contain it, in upper or lower case.
    """
    everyone = _shown() if source is None else _visible(viewer)
    query = (
        select(Walk)
        .where(everyone if owner is None else Walk.owner == owner)
        .where(Walk.deleted_at.is_(None), Walk.status != WalkStatus.EXPIRED)
        .order_by(Walk.created_at.desc(), Walk.id.desc())
        .limit(limit)
        .options(selectinload(Walk.artifacts), _with_source(viewer))
    )
    if source is not None:
        other = aliased(Walk)
        seen = exists().where(other.id == source, _visible(viewer, other))
        query = query.where(Walk.from_walk == source, seen)
    if before is not None:
        query = query.where(tuple_(Walk.created_at, Walk.id) < before)
    if status is not None:
        query = query.where(Walk.status == status)
    if text := text.replace("\0", ""):  # PostgreSQL does not accept NUL, and no prompt contains it
        query = query.where(Walk.id.in_(search.find(session, query, text, limit)))
    return session.scalars(query).all()


def chosen(session: Session, walks: Sequence[UUID], *, viewer: str | None) -> list[Walk]:
    """Return those of these walks that have succeeded and that a viewer may see, in this order, with artifacts."""
    found = session.scalars(
        select(Walk)
        .where(Walk.id.in_(walks), Walk.status == WalkStatus.SUCCEEDED, _visible(viewer))
        .options(selectinload(Walk.artifacts), _with_source(viewer))
    )
    return sorted(found, key=lambda walk: walks.index(walk.id))


def ends(session: Session, walks: Collection[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return the objects of the first and of the last frame of each of these walks that has succeeded."""
    of_walk = select(Frame.object).where(Frame.walk_id == Walk.id).limit(1).correlate(Walk)
    found = session.execute(
        select(
            Walk.id,
            of_walk.order_by(Frame.position).scalar_subquery(),
            of_walk.order_by(Frame.position.desc()).scalar_subquery(),
        ).where(Walk.id.in_(walks), Walk.status == WalkStatus.SUCCEEDED)
    )
    return {walk_id: (first, last) for walk_id, first, last in found if first and last}


def _shown(walk: type[Walk] = Walk) -> ColumnElement[bool]:
    """Return the condition that everyone may see a walk, unless it is deleted."""
    return and_(walk.public, walk.hidden_at.is_(None))


def _visible(viewer: str | None, walk: type[Walk] = Walk) -> ColumnElement[bool]:
    """Return the condition that a viewer may see a walk; None means a viewer who owns nothing."""
    return and_(walk.deleted_at.is_(None), or_(_shown(walk), walk.owner == viewer))


def _with_source(viewer: str | None) -> ExecutableOption:
    """Return the query option that fills `Walk.source`, if the viewer may see that walk and it has not expired."""
    other = aliased(Walk)
    there = and_(_visible(viewer, other), other.status != WalkStatus.EXPIRED)
    source = select(other.id).where(other.id == Walk.from_walk, there)
    return with_expression(Walk.source, source.scalar_subquery())
