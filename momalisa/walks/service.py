"""Walks as visitors know them: every query and state change of a walk but those of its chunks (`queue/`).

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, true, tuple_, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session, aliased, selectinload, with_expression
from sqlalchemy.sql.base import ExecutableOption

from momalisa import api_keys
from momalisa.db import notifications
from momalisa.db.models import Chunk, Frame, IdempotencyKey, Tombstone, Walk
from momalisa.db.session import rowcount
from momalisa.domain import pacing
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkStatus, WalkStatus
from momalisa.errors import NotOwnerError, WalkExpiredError, WalkNotFoundError, WalkOverError
from momalisa.queue import fairness, lifecycle
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry import tracing
from momalisa.walks import relocation, search


def create(
    session: Session,
    spec: WalkSpec,
    *,
    public: bool,
    owner: str,
    tenant: str | None = None,
    deadline_seconds: int | None = None,
    webhook_url: str | None = None,
    walk_id: UUID | None = None,
    source: Walk | None = None,
) -> Walk:
    """Write a walk with the chunks and frames of its first pass. The caller publishes permits after the commit.

    `tenant` is who takes turns with others in the fair order of the queue: the owner, if it is left out. `walk_id`
    is drawn if it is left out. `source` is a walk, with its frames, that this one starts from: what is the same is
    taken over.
    """
    tenant = tenant or owner
    walk = Walk(
        id=walk_id or uuid4(),
        owner=owner,
        public=public,
        secret=bucket.new_secret(),
        spec=spec,
        from_walk=None if source is None else source.id,
        model=settings().model_name,
        batch_size=settings().batch_size,
        frames_total=spec.frames,
        deadline_at=None if deadline_seconds is None else func.now() + timedelta(seconds=deadline_seconds),
        webhook_url=webhook_url,
        traceparent=tracing.here(),
    )
    session.add(walk)
    session.flush()
    kept: list[float] = []
    if source is not None and source.model == walk.model and spec.refines(source.spec):
        kept = [frame.position for frame in source.frames if frame.object is not None]
    planned = pacing.plan_first_pass(spec, walk.batch_size, kept)
    lifecycle.enqueue(session, walk.id, tenant, walk.model, planned, walk.batch_size)
    session.refresh(walk)
    return walk


def count_waiting(session: Session, tenant: str) -> int:
    """Return how many walks of a tenant still wait for a worker with some of their work.

    Until the end of the transaction nobody else is told, so that two submissions cannot both take the last place.
    """
    fairness.lock_tenant(session, tenant)
    walks = select(func.count(Chunk.walk_id.distinct())).where(
        Chunk.status == ChunkStatus.QUEUED, Chunk.tenant == tenant
    )
    return session.execute(walks).scalar_one()


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
    _refuse_what_is_gone(session, walk_id, None if walk is None else walk.status, viewer)
    assert walk
    return walk


@dataclass(frozen=True)
class Snapshot:
    """As much of a walk as it takes to know whether to look closer."""

    revision: int
    """Grows with every change that a client can see."""
    status: WalkStatus
    age_seconds: float


def snapshot(session: Session, walk_id: UUID, *, viewer: str | None, key: UUID | None = None) -> Snapshot:
    """Return the revision and the status of a walk, by one query for one row.

    The query also confirms that the API key still holds by which the viewer is known, if there is one.

    Raises:
        UnauthorizedError: if the key does not hold.
        WalkNotFoundError: if there is none with this id that the viewer may see.
        WalkExpiredError: if it is past its retention.
    """
    age = func.extract("epoch", func.now() - Walk.created_at).label("age")
    key_holds = true() if key is None else api_keys.holds(key)
    row = session.execute(
        select(Walk.revision, Walk.status, age, key_holds.label("key_holds")).where(
            Walk.id == walk_id, _visible(viewer)
        )
    ).one_or_none()
    if not (row.key_holds if row else session.scalar(select(key_holds))):
        api_keys.refuse()
    _refuse_what_is_gone(session, walk_id, None if row is None else row.status, viewer)
    assert row
    return Snapshot(row.revision, row.status, float(row.age))


@dataclass(frozen=True)
class SharedSnapshot:
    """A walk as it was at one moment, for all who wait for it."""

    walk_id: UUID
    snapshot: Snapshot | None
    """None if there is no such walk."""
    owner: str | None
    shown: bool
    """Whether everybody may see it."""
    keys: frozenset[UUID]
    """Of the API keys that were asked about, those that hold."""
    source_owner: str | None = None
    """Who owns the walk that it started from, if there is one that is still kept."""

    def looks_different_to(self, viewer: str | None) -> bool:
        """Tell whether the walk may look different to somebody than to those who own nothing (`get`)."""
        return viewer is not None and viewer in {self.owner, self.source_owner}

    def seen_by(self, viewer: str | None, key: UUID | None) -> Snapshot:
        """Return what somebody sees who is known by an API key, if it is not None.

        Raises:
            UnauthorizedError: if the key does not hold.
            WalkNotFoundError: if the viewer may not see the walk, or there is none.
            WalkExpiredError: if it is past its retention.
        """
        if key is not None and key not in self.keys:
            api_keys.refuse()
        visible = self.snapshot if self.shown or (viewer is not None and viewer == self.owner) else None
        if visible is None:
            raise WalkNotFoundError(f"There is no walk {self.walk_id}.")
        if visible.status == WalkStatus.EXPIRED:
            raise _expired(self.walk_id)
        return visible


def shared_snapshot(session: Session, walk_id: UUID, asked: Collection[UUID]) -> SharedSnapshot:
    """Return a glimpse of a walk for all who wait for it, and which of their API keys hold."""
    holding = api_keys.holding(session, asked) if asked else frozenset()
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
            return SharedSnapshot(walk_id, None, None, False, holding)
        return SharedSnapshot(walk_id, Snapshot(0, WalkStatus.EXPIRED, 0.0), left.owner, left.public, holding)
    seen = Snapshot(row.revision, row.status, float(row.age))
    return SharedSnapshot(walk_id, seen, row.owner, row.shown, holding, row.source_owner)


def _refuse_what_is_gone(session: Session, walk_id: UUID, status: WalkStatus | None, viewer: str | None) -> None:
    if status is None and not session.scalar(select(_was_there(walk_id, viewer))):
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
    if status in {None, WalkStatus.EXPIRED}:
        raise _expired(walk_id)


def _expired(walk_id: UUID) -> WalkExpiredError:
    return WalkExpiredError(
        f"The walk {walk_id} is expired: its files were kept for {settings().retention_days:g} days."
    )


def _was_there(walk_id: UUID, viewer: str | None) -> ColumnElement[bool]:
    """Return the condition that somebody could see a walk that has expired since."""
    could_see = or_(Tombstone.public, Tombstone.owner == viewer)
    return exists().where(Tombstone.walk_id == walk_id, could_see)


def reusable_frames(
    session: Session, walk_id: UUID, keys: Sequence[str], *, viewer: str
) -> dict[str, tuple[StoredObject, bytes]]:
    """Return the objects and signatures of the frames of a walk that show what is wanted, by their keys.

    There are none if the viewer may not see the walk, or it is gone.
    """
    found = session.execute(
        select(Frame.content_hash, Frame.object, Frame.bytes, Frame.crc32c, Frame.thumbnail)
        .join(Walk, Walk.id == Frame.walk_id)
        .where(Frame.walk_id == walk_id, Frame.content_hash.in_(keys), Frame.object.is_not(None))
        .where(_visible(viewer), Walk.status != WalkStatus.EXPIRED)
    )
    return {
        frame.content_hash: (StoredObject(frame.object, frame.bytes, frame.crc32c), frame.thumbnail)
        for frame in found
    }


def cancel(session: Session, walk_id: UUID, *, owner: str | None) -> Walk:
    """Stop a walk and return it; the frames that are there stay. Canceling a canceled walk changes nothing.

    Raises:
        WalkNotFoundError: if there is none with this id that `owner` may see.
        NotOwnerError: if it is somebody else's.
        WalkOverError: if it has ended otherwise.
    """
    walk = _owned(session, walk_id, owner)
    if not lifecycle.end_walk(session, walk_id, WalkStatus.CANCELED):
        session.refresh(walk, ["status"])
        if walk.status != WalkStatus.CANCELED:
            raise WalkOverError(f"The walk {walk_id} can no longer be canceled: it is {walk.status.value}.")
    return get(session, walk_id, viewer=owner)


def set_public(session: Session, walk_id: UUID, public: bool, *, owner: str | None) -> Walk:
    """Show a walk to everyone, or to its owner only, and return it; what is so already does not change.

    The URLs of its files stop working soon after it was made private (`moving`).

    Raises:
        WalkNotFoundError: if there is none with this id that `owner` may see.
        WalkExpiredError: if it is past its retention.
        NotOwnerError: if it is somebody else's.
    """
    _owned(session, walk_id, owner)
    lifecycle.lock_chunks(session, walk_id)
    changed = session.execute(
        update(Walk)
        .where(Walk.id == walk_id, Walk.public != public)
        .values(public=public, **notifications.changed(session, walk_id))
    )
    if rowcount(changed) and not public:
        relocation.begin(session, walk_id)
    return get(session, walk_id, viewer=owner)


def delete(session: Session, walk_id: UUID, *, owner: str | None) -> None:
    """Remove a walk for its owner.

    Raises:
        WalkNotFoundError: if there is none with this id that the viewer may see.
        WalkExpiredError: if it is past its retention.
        NotOwnerError: if it is somebody else's.
    """
    _owned(session, walk_id, owner)
    remove(session, walk_id)


def remove(session: Session, walk_id: UUID) -> None:
    """Remove a walk: it is invisible from now on, and `retention.remove` does the rest."""
    lifecycle.end_walk(session, walk_id, WalkStatus.CANCELED)
    session.execute(
        update(Walk)
        .where(Walk.id == walk_id)
        .values(deleted_at=func.now(), **notifications.changed(session, walk_id))
    )
    session.execute(sql_delete(IdempotencyKey).where(IdempotencyKey.walk_id == walk_id))


def _owned(session: Session, walk_id: UUID, owner: str | None) -> Walk:
    walk = get(session, walk_id, viewer=owner)
    if walk.owner != owner:
        raise NotOwnerError(f"Only who made the walk {walk_id} can do this to it.")
    return walk


def list_walks(
    session: Session,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None,
    status: WalkStatus | None,
    viewer: str | None,
    owner: str | None = None,
    word: str = "",
) -> Sequence[Walk]:
    """Return up to `limit` walks, newest first, with their artifacts: all of an owner's, or else the public ones.

    `before` is the time of creation and the id of the last walk of the page before; `word` is what one of the
    prompts has in it, in any case.
    """
    query = (
        select(Walk)
        .where(_shown() if owner is None else Walk.owner == owner)
        .where(Walk.deleted_at.is_(None), Walk.status != WalkStatus.EXPIRED)
        .order_by(Walk.created_at.desc(), Walk.id.desc())
        .limit(limit)
        .options(selectinload(Walk.artifacts), _with_source(viewer))
    )
    if before is not None:
        query = query.where(tuple_(Walk.created_at, Walk.id) < before)
    if status is not None:
        query = query.where(Walk.status == status)
    if word := word.replace("\0", ""):  # which PostgreSQL does not take, and no prompt has
        query = query.where(Walk.id.in_(search.first(session, query, word, limit)))
    return session.scalars(query).all()


def _shown(walk: type[Walk] = Walk) -> ColumnElement[bool]:
    """Return the condition that everybody may see a walk that is not deleted."""
    return and_(walk.public, walk.hidden_at.is_(None))


def _visible(viewer: str | None, walk: type[Walk] = Walk) -> ColumnElement[bool]:
    """Return the condition that somebody may see a walk; None is somebody who owns nothing."""
    return and_(walk.deleted_at.is_(None), or_(_shown(walk), walk.owner == viewer))


def _with_source(viewer: str | None) -> ExecutableOption:
    """Return the option of a query for walks that fills `Walk.source`."""
    other = aliased(Walk)
    source = select(other.id).where(other.id == Walk.from_walk, _visible(viewer, other))
    return with_expression(Walk.source, source.scalar_subquery())
