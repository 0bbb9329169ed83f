"""Leases: a worker claims a chunk, keeps it by heartbeats, and releases it or reports that its attempt failed.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits. Every write of a
worker is fenced: it takes effect only while the chunk still has the lease token of the worker's claim; otherwise
`LeaseLostError` is raised, and the worker drops its work.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Exists,
    Interval,
    Select,
    and_,
    any_,
    case,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased

from momalisa.db import notifications
from momalisa.db.models import Chunk, Frame, Pause, Walk
from momalisa.db.session import rowcount
from momalisa.domain import passes, pins
from momalisa.domain.pins import MadeWith, Pins, RenderedFrame
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, Flag, Made, WalkStatus
from momalisa.errors import LeaseLostError
from momalisa.queue import fairness
from momalisa.queue.lifecycle import fail_walk, lock_chunks, release_values
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject

MAX_BACKOFF_SECONDS = 300.0
"""A released or failed chunk can be claimed again after this time at the latest."""

MAX_HISTORY, MAX_ERROR_LENGTH = 20, 1000
"""Failed attempts that a chunk keeps in its history, and characters of the error of each."""


@dataclass(frozen=True)
class ClaimedFrame:
    """A frame of a claimed chunk."""

    position: float
    stored: StoredObject | None
    """Set if the frame was uploaded and recorded before."""
    flagged: Flag | None = None
    """Set if it was rendered before but must not be shown."""
    made: Made | None = None
    """Set if it was recorded before, and may be shown."""
    error: float | None = None
    """How much it is expected to differ from a denoised frame, if it is interpolated and that is known."""

    @property
    def missing(self) -> bool:
        """Whether it still has to be rendered."""
        return self.stored is None and self.flagged is None


class Key(NamedTuple):
    """A recorded frame with latents, between which others are interpolated."""

    position: float
    stored: StoredObject
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A claim of a chunk: the part that is needed to report how it ended."""

    walk_id: UUID
    number: int
    kind: ChunkKind
    token: UUID
    attempt: int
    """1 at the first attempt."""
    parent: str = ""
    """Parent of the process that claimed it, as host:pid; a chunk that failed here is better tried elsewhere."""
    error: str | None = None
    """The error of the previous attempt."""


@dataclass(frozen=True, kw_only=True)
class Claim(Attempt):
    """A claim of a chunk, with everything that is needed to process it."""

    model: str
    """Name of the model of the walk."""
    owner: str
    """Owner of the walk; frames are reused only from walks that the owner may see."""
    tenant: str
    """Tenant of the chunk in the fair order."""
    secret: str = field(repr=False)
    """Secret of the walk, a part of its object names."""
    from_walk: UUID | None
    """The walk whose frames are reused where they are the same."""
    spec: WalkSpec
    batch_size: int
    """Frames that are rendered at once; a smaller chunk is padded to this size."""
    frames: tuple[ClaimedFrame, ...]
    """By position: the chunk's own frames, or all frames of the walk for an assembly."""
    interpolated: bool = False
    """Whether the frames are interpolated between the keys."""
    keys: tuple[Key, ...] = ()
    """The frames of earlier passes that have latents, by position; for a closed walk, the first again at 1."""
    pins: Pins | None = None
    """How the frames were rendered; of an assembly."""
    pinned_to: MadeWith | None = None
    """What rendered the walk that this one is pinned to."""
    recovery_seconds: float | None = None
    """Seconds since the previous lease was lost; None if it was not."""
    traceparent: str | None = None
    """The request that created the walk, as a W3C `traceparent`."""


def claim(session: Session, kind: ChunkKind, worker: str, parent: str = "") -> Claim | None:
    """Lease the next chunk in the fair order to a worker.

    Retried chunks come first, so that a fault delays no walk for long; then tenants alternate by virtual time
    (`fairness`); then the oldest comes first. A chunk that has failed on this worker is left to others for up to
    `MAX_BACKOFF_SECONDS`, while any of them is busy with the same kind and model: it may have failed on theirs too.

    Args:
        session: of the caller.
        kind: of the chunk.
        worker: the process that claims, as host:pid.
        parent: its parent process, as host:pid.

    Returns:
        None if no chunk can be claimed, or claims are paused.
    """
    found = session.execute(_next_chunk(kind, parent)).one_or_none()
    if found is None:
        return None
    token = uuid4()
    chunk = session.execute(
        update(Chunk)
        .where(Chunk.walk_id == found.walk_id, Chunk.number == found.number)
        .values(
            status=ChunkStatus.LEASED,
            lease_token=token,
            worker=worker,
            claimed_at=func.now(),
            lease_expires_at=_from_now(settings().lease_seconds),
            secret=select(Walk.secret).where(Walk.id == found.walk_id).scalar_subquery(),
            attempts=Chunk.attempts + 1,
        )
        .returning(
            *(Chunk.attempts, Chunk.error, Chunk.tenant, Chunk.batch_size, Chunk.interpolated, Chunk.pass_start)
        )
    ).one()
    columns = (Walk.spec, Walk.batch_size, Walk.made_with, Walk.model, Walk.owner, Walk.secret, Walk.from_walk)
    walk = session.execute(select(*columns, Walk.traceparent, Walk.status).where(Walk.id == found.walk_id)).one()
    if walk.status == WalkStatus.QUEUED:
        _start_walk(session, found.walk_id)
    if kind == ChunkKind.RENDER:
        frames, how = _frames_of_chunk(session, found.walk_id, found.number), None
    else:
        frames, how = _frames_of_walk(session, found.walk_id)
    between_others = chunk.pass_start and (chunk.interpolated or passes.is_dense(walk.spec))
    return Claim(
        walk_id=found.walk_id,
        number=found.number,
        kind=kind,
        token=token,
        attempt=chunk.attempts,
        parent=parent,
        error=chunk.error,
        model=walk.model,
        owner=walk.owner,
        tenant=chunk.tenant,
        secret=walk.secret,
        from_walk=walk.from_walk,
        spec=walk.spec,
        batch_size=chunk.batch_size or walk.batch_size,
        frames=frames,
        interpolated=chunk.interpolated,
        keys=_keys(session, found.walk_id, walk.spec, chunk.pass_start) if between_others else (),
        pins=how,
        pinned_to=walk.made_with,
        recovery_seconds=None if found.recovery_seconds is None else max(0.0, float(found.recovery_seconds)),
        traceparent=walk.traceparent,
    )


def _next_chunk(kind: ChunkKind, parent: str) -> Select[UUID, int, Any]:
    """Return the query that locks the next chunk to claim; `recovery_seconds` is null unless its lease was lost."""
    model = settings().model_name if kind == ChunkKind.RENDER else fairness.NO_MODEL
    lost_since_claimed = func.now() - case((Chunk.lease_lost_at > Chunk.claimed_at, Chunk.lease_lost_at))
    left_to_others = and_(
        _failed_on(parent), _others_work(kind, model), Chunk.scheduled_at >= _from_now(-MAX_BACKOFF_SECONDS)
    )
    return (
        select(Chunk.walk_id, Chunk.number, func.extract("epoch", lost_since_claimed).label("recovery_seconds"))
        .where(
            Chunk.status == ChunkStatus.QUEUED,
            Chunk.kind == kind,
            Chunk.model == model,
            is_due(),
            ~paused(),
            ~left_to_others,
        )
        .order_by(*fairness.ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _start_walk(session: Session, walk_id: UUID) -> None:
    session.execute(
        update(Walk)
        .where(Walk.id == walk_id, Walk.status == WalkStatus.QUEUED)
        .values(status=WalkStatus.RUNNING, started_at=func.now(), **notifications.changed(session, walk_id))
    )


def _frames_of_chunk(session: Session, walk_id: UUID, number: int) -> tuple[ClaimedFrame, ...]:
    """Return the frames of a chunk, by position."""
    frames = select(Frame).where(Frame.walk_id == walk_id, Frame.chunk == number).order_by(Frame.position)
    return tuple(_claimed(frame) for frame in session.scalars(frames))


def _keys(session: Session, walk_id: UUID, spec: WalkSpec, pass_start: int) -> tuple[Key, ...]:
    """Return the frames of earlier passes that others can be interpolated between, without those that were lost."""
    of_walk = and_(Frame.walk_id == walk_id, Frame.chunk < pass_start, Frame.object.is_not(None))
    columns = (Frame.position, Frame.object, Frame.bytes, Frame.crc32c, Frame.content_hash)
    rows = session.execute(select(*columns).where(of_walk, Frame.latents).order_by(Frame.position))
    keys = [Key(row.position, StoredObject(row.object, row.bytes, row.crc32c), row.content_hash) for row in rows]
    if spec.timing.closed and keys and keys[0].position == 0:
        keys.append(keys[0]._replace(position=1.0))
    return tuple(keys)


def _frames_of_walk(session: Session, walk_id: UUID) -> tuple[tuple[ClaimedFrame, ...], Pins]:
    """Return all frames of a walk, by position, and how they were rendered."""
    rows = session.execute(
        select(
            Frame,
            func.coalesce(Chunk.batch_size, Walk.batch_size).label("batch_size"),
            Chunk.interpolated,
            Chunk.made_with,
        )
        .join(Chunk, and_(Chunk.walk_id == Frame.walk_id, Chunk.number == Frame.chunk))
        .join(Walk, Walk.id == Frame.walk_id)
        .where(Frame.walk_id == walk_id)
        .order_by(Frame.position)
    ).all()
    rendered = [
        RenderedFrame(row.Frame.chunk, row.Frame.position, row.batch_size, row.interpolated, row.made_with)
        for row in rows
    ]
    return tuple(_claimed(row.Frame) for row in rows), pins.pins(rendered)


def _claimed(frame: Frame) -> ClaimedFrame:
    return ClaimedFrame(frame.position, _stored(frame), frame.flagged, frame.made, frame.expected_error)


def heartbeat(session: Session, claim: Claim) -> None:
    """Extend the lease of a claimed chunk.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    fenced_update(session, claim, lease_expires_at=_from_now(settings().lease_seconds))


def release(session: Session, claim: Claim, seconds: float = 0, *, failed_here: bool = False) -> None:
    """Put a chunk back into the queue because this worker cannot process it; the attempt does not count.

    Args:
        session: of the caller.
        claim: of the chunk.
        seconds: after which it can be claimed again, at most `MAX_BACKOFF_SECONDS`.
        failed_here: whether other workers are preferred for the next attempt.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    changed = release_values(ChunkStatus.QUEUED) | (_failed_here(claim) if failed_here else {})
    scheduled_at = _from_now(min(seconds, MAX_BACKOFF_SECONDS))
    fenced_update(session, claim, **changed, attempts=Chunk.attempts - 1, scheduled_at=scheduled_at)


def attempt_failed(
    session: Session, claim: Attempt, error: str, *, deterministic: bool = False, lost: bool = False
) -> None:
    """Put a chunk back into the queue after a failed attempt, or fail its walk if there are no attempts left.

    Args:
        session: of the caller.
        claim: the attempt.
        error: what went wrong, for operators.
        deterministic: whether the same input always gives this error; then the walk fails at its second
            occurrence.
        lost: whether the worker has died and another process reports this; then the time to the next claim is
            measured.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    same_again = deterministic and error == claim.error
    failure = failure_values(error)
    if lost:
        failure["lease_lost_at"] = func.now()
    failure |= _failed_here(claim)
    if same_again or claim.attempt >= settings().max_attempts:
        lock_chunks(session, claim.walk_id)
        fenced_update(session, claim, **release_values(ChunkStatus.FAILED), **failure)
        fail_walk(session, claim.walk_id, claim.kind, deterministic=same_again)
        return
    scheduled_at = _from_now(_backoff_seconds(claim.attempt))
    fenced_update(session, claim, **release_values(ChunkStatus.QUEUED), **failure, scheduled_at=scheduled_at)


def failure_values(error: str) -> dict[str, object]:
    """Return the values of a chunk whose attempt failed: the error, also appended to its bounded history."""
    entry = func.jsonb_build_object(
        *("attempt", Chunk.attempts, "at", func.now(), "worker", Chunk.worker, "error", error[:MAX_ERROR_LENGTH])
    )
    kept = case(
        (func.jsonb_array_length(Chunk.history) < MAX_HISTORY, Chunk.history),
        else_=Chunk.history.op("-", return_type=JSONB())(literal(0)),
    )
    return {"error": error, "history": kept.concat(func.jsonb_build_array(entry))}


def fenced_update(session: Session, claim: Attempt, **values: object) -> None:
    """Change a chunk if it still has the lease token of this claim.

    Raises:
        LeaseLostError: if it does not.
    """
    changed = session.execute(
        update(Chunk)
        .where(
            Chunk.walk_id == claim.walk_id,
            Chunk.number == claim.number,
            Chunk.lease_token == claim.token,
            Chunk.status == ChunkStatus.LEASED,
        )
        .values(**values)
    )
    if not rowcount(changed):
        raise LeaseLostError(f"The lease of chunk {claim.number} of walk {claim.walk_id} is lost.")


def is_due() -> ColumnElement[bool]:
    """Return the condition that a queued chunk may be claimed now.

    Only a retried chunk waits, and never longer than `MAX_BACKOFF_SECONDS`: a time further ahead was written before
    PostgreSQL's clock was set back.
    """
    return or_(
        Chunk.priority != fairness.RETRY,
        Chunk.scheduled_at <= func.now(),
        Chunk.scheduled_at > _from_now(MAX_BACKOFF_SECONDS),
    )


def paused() -> Exists:
    """Return the condition that an operator has paused all claims (`admin.pause`)."""
    return select(Pause.since).exists()


def _failed_here(claim: Attempt) -> dict[str, object]:
    """Return the values of a chunk that failed on the worker of an attempt."""
    if not claim.parent:
        return {}
    added = func.array_append(Chunk.failed_on, claim.parent)
    return {"failed_on": case((_failed_on(claim.parent), Chunk.failed_on), else_=added)}


def _failed_on(parent: str) -> ColumnElement[bool]:
    """Return the condition that a chunk has failed on the worker with this parent process."""
    return literal(parent) == any_(Chunk.failed_on)


def _others_work(kind: ChunkKind, model: str) -> Exists:
    """Return the condition that a worker is busy with a chunk of a kind and model; the one that claims is idle."""
    other = aliased(Chunk)
    leased = select(other.number).where(other.status == ChunkStatus.LEASED)
    return leased.where(other.kind == kind, other.model == model).exists()


def _backoff_seconds(attempt: int) -> float:
    """Return the backoff after the n-th failed attempt: 1, 2, 4, 8 … 60 seconds."""
    return min(2.0 ** (attempt - 1), 60.0)


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + literal(timedelta(seconds=seconds), Interval)


def _stored(frame: Frame) -> StoredObject | None:
    if frame.object is None or frame.bytes is None or frame.crc32c is None:
        return None
    return StoredObject(frame.object, frame.bytes, frame.crc32c)
