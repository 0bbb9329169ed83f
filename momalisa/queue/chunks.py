"""Chunks, the units of work: claimed under a lease, kept by heartbeats, given back, taken back, given up.

Each function works inside the transaction of its caller (`database.transaction`), who commits. What a worker
reports is fenced: it holds only while the chunk still bears the lease token that the worker was given; otherwise
`LeaseLostError` is raised and the work is dropped. Rows are locked in one order, chunks by number and then the
walk, so that transactions cannot wait for each other in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Exists,
    Interval,
    Result,
    any_,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased

from momalisa.db import notifications
from momalisa.db.models import Chunk, Frame, Pause, Walk
from momalisa.domain import path as maths
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ACTIVE, ChunkKind, ChunkStatus, Flag, WalkStatus
from momalisa.errors import LeaseLostError
from momalisa.queue import fairness
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.webhooks import deliveries

LONGEST_WAIT_SECONDS = 300.0
"""A chunk that came back from a worker is due again after that at the latest."""


KEPT_ATTEMPTS, LONGEST_ERROR = 20, 1000
"""What a chunk remembers of its failed attempts: so many, in so many characters each."""


@dataclass(frozen=True)
class ClaimedFrame:
    """A frame of a claimed chunk."""

    position: float
    stored: StoredObject | None
    """Set if the frame was uploaded and recorded before."""
    flagged: Flag | None = None
    """Set if it was rendered before, and must not be shown."""

    @property
    def missing(self) -> bool:
        """Whether it is still to be rendered."""
        return self.stored is None and self.flagged is None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A chunk in the hands of one worker, as far as it takes to report what became of it."""

    walk_id: UUID
    number: int
    kind: ChunkKind
    token: UUID
    attempt: int
    """1 at the first attempt."""
    workplace: str = ""
    """Whose processes work on it one after the other, as host:pid of their parent."""
    error: str | None = None
    """What went wrong at the attempt before this one."""


@dataclass(frozen=True, kw_only=True)
class Claim(Attempt):
    """A chunk in the hands of one worker, with all that it needs to know to do the work."""

    model: str
    """Name of the model that the walk was made for."""
    owner: str
    """Who owns the walk, and sees no more than its owner may."""
    tenant: str
    """Who takes turns for the walk in the fair order."""
    secret: str = field(repr=False)
    """Of the walk: a part of the names of its objects."""
    from_walk: UUID | None
    """The walk whose frames this one takes over where they are the same."""
    spec: WalkSpec
    frames: tuple[ClaimedFrame, ...]
    """By position: the chunk's own frames, or all frames of the walk for an assembly."""
    recovery_seconds: float | None = None
    """How long ago the lease before this one ran out; None if it did not."""
    traceparent: str | None = None
    """The request that made the walk, as a W3C `traceparent`."""


class Ready(NamedTuple):
    """Chunks that can be claimed because of what was written; they want permits after the commit."""

    kind: ChunkKind
    number: int = 1


def enqueue(session: Session, walk_id: UUID, tenant: str, model: str, positions: Sequence[float]) -> Ready:
    """Add frames to a walk in chunks, coarse to fine, which take the next turns of its tenant."""
    batches = maths.chunks(len(positions), settings().batch_size)
    last = session.execute(select(func.max(Chunk.number)).where(Chunk.walk_id == walk_id)).scalar_one()
    begin = 0 if last is None else last + 1
    numbers = range(begin, begin + len(batches))
    drawn = fairness.draw(session, tenant, model, len(batches))
    session.execute(
        insert(Chunk).values(
            [
                {
                    "walk_id": walk_id,
                    "number": number,
                    "kind": ChunkKind.RENDER,
                    "tenant": tenant,
                    "model": model,
                    "virtual_time": drawn.first + index,
                    "priority": fairness.USUAL if index else drawn.priority,
                }
                for index, number in enumerate(numbers)
            ]
        )
    )
    session.execute(  # many rows by one statement: a list of parameters would be a statement for each
        insert(Frame).values(
            [
                {"walk_id": walk_id, "position": positions[index], "chunk": number}
                for number, indices in zip(numbers, batches, strict=True)
                for index in indices
            ]
        )
    )
    return Ready(ChunkKind.RENDER, len(batches))


def claim(session: Session, kind: ChunkKind, worker: str, workplace: str = "") -> Claim | None:
    """Lease the best chunk that is due to a worker, or return None if there is none, or if claims are paused.

    Chunks that were in a worker's hands before come first, so that trouble holds up no walk for long; then it goes
    by turns between tenants (`turns`); then oldest first.
    A chunk that failed at this workplace is left to others as long as they are at work.
    """
    model = settings().model_name if kind == ChunkKind.RENDER else fairness.NO_MODEL
    lost_since_claimed = func.now() - case((Chunk.lease_lost_at > Chunk.claimed_at, Chunk.lease_lost_at))
    chunk = session.execute(
        select(Chunk.walk_id, Chunk.number, func.extract("epoch", lost_since_claimed).label("recovery_seconds"))
        .where(
            Chunk.status == ChunkStatus.QUEUED,
            Chunk.kind == kind,
            Chunk.model == model,
            is_due(),
            ~paused(),
            or_(~_failed_at(workplace), ~_others_work(kind, model)),
        )
        .order_by(*fairness.ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if chunk is None:
        return None
    token = uuid4()
    attempt, error, tenant = session.execute(
        update(Chunk)
        .where(Chunk.walk_id == chunk.walk_id, Chunk.number == chunk.number)
        .values(
            status=ChunkStatus.LEASED,
            lease_token=token,
            worker=worker,
            claimed_at=func.now(),
            lease_expires_at=_from_now(settings().lease_seconds),
            secret=select(Walk.secret).where(Walk.id == chunk.walk_id).scalar_subquery(),
            attempts=Chunk.attempts + 1,
        )
        .returning(Chunk.attempts, Chunk.error, Chunk.tenant)
    ).one()
    walk = session.execute(
        select(Walk.spec, Walk.model, Walk.owner, Walk.secret, Walk.from_walk, Walk.traceparent, Walk.status).where(
            Walk.id == chunk.walk_id
        )
    ).one()
    if walk.status == WalkStatus.QUEUED:
        session.execute(
            update(Walk)
            .where(Walk.id == chunk.walk_id, Walk.status == WalkStatus.QUEUED)
            .values(
                status=WalkStatus.RUNNING, started_at=func.now(), **notifications.changed(session, chunk.walk_id)
            )
        )
    frames = select(Frame).where(Frame.walk_id == chunk.walk_id).order_by(Frame.position)
    if kind == ChunkKind.RENDER:
        frames = frames.where(Frame.chunk == chunk.number)
    return Claim(
        walk_id=chunk.walk_id,
        number=chunk.number,
        kind=kind,
        token=token,
        attempt=attempt,
        model=walk.model,
        owner=walk.owner,
        tenant=tenant,
        secret=walk.secret,
        from_walk=walk.from_walk,
        spec=walk.spec,
        frames=tuple(
            ClaimedFrame(frame.position, _stored(frame), frame.flagged) for frame in session.scalars(frames)
        ),
        workplace=workplace,
        error=error,
        recovery_seconds=None if chunk.recovery_seconds is None else max(0.0, float(chunk.recovery_seconds)),
        traceparent=walk.traceparent,
    )


def heartbeat(session: Session, claim: Claim) -> None:
    """Prolong the lease of a claimed chunk.

    Raises:
        LeaseLostError: if the chunk is no longer ours.
    """
    fenced_update(session, claim, lease_expires_at=_from_now(settings().lease_seconds))


def release(session: Session, claim: Claim, seconds: float = 0) -> None:
    """Return a chunk to the queue, because this worker cannot do it; the attempt does not count.

    It is due again after `seconds`, or `LONGEST_WAIT_SECONDS` if that is less.

    Raises:
        LeaseLostError: if the chunk is no longer ours.
    """
    scheduled_at = _from_now(min(seconds, LONGEST_WAIT_SECONDS))
    fenced_update(
        session, claim, **release_values(ChunkStatus.QUEUED), attempts=Chunk.attempts - 1, scheduled_at=scheduled_at
    )


def attempt_failed(
    session: Session, claim: Attempt, error: str, *, deterministic: bool = False, lost: bool = False
) -> None:
    """Return a chunk to the queue after a failed attempt, or fail its walk if that was the last attempt.

    An error that is `deterministic` would come again each time: if it came twice, there is no third attempt. What
    somebody else reports for the worker is `lost`: it is measured how long it waits for the next one.

    Raises:
        LeaseLostError: if the chunk is no longer ours.
    """
    hopeless = deterministic and error == claim.error
    failure = failed_attempt(error)
    if lost:
        failure["lease_lost_at"] = func.now()
    if claim.workplace:
        added = func.array_append(Chunk.failed_by, claim.workplace)
        failure["failed_by"] = case((_failed_at(claim.workplace), Chunk.failed_by), else_=added)
    if hopeless or claim.attempt >= settings().max_attempts:
        lock_chunks(session, claim.walk_id)
        fenced_update(session, claim, **release_values(ChunkStatus.FAILED), **failure)
        fail_walk(session, claim.walk_id, claim.kind, hopeless=hopeless)
        return
    scheduled_at = _from_now(_backoff_seconds(claim.attempt))
    fenced_update(session, claim, **release_values(ChunkStatus.QUEUED), **failure, scheduled_at=scheduled_at)


def failed_attempt(error: str) -> dict[str, object]:
    """Return the values of a chunk whose attempt failed, which keeps what went wrong at the last few."""
    entry = func.jsonb_build_object(
        *("attempt", Chunk.attempts, "at", func.now(), "worker", Chunk.worker, "error", error[:LONGEST_ERROR])
    )
    kept = case(
        (func.jsonb_array_length(Chunk.history) < KEPT_ATTEMPTS, Chunk.history),
        else_=Chunk.history.op("-", return_type=JSONB())(literal(0)),
    )
    return {"error": error, "history": kept.concat(func.jsonb_build_array(entry))}


def done_within(session: Session, kind: ChunkKind, seconds: float) -> bool:
    """Tell whether a chunk of a kind was done within the last `seconds`, by anybody."""
    done = select(Chunk.number).where(Chunk.kind == kind, Chunk.status == ChunkStatus.DONE)
    return bool(session.scalar(select(done.where(Chunk.finished_at > _from_now(-seconds)).exists())))


def _others_work(kind: ChunkKind, model: str) -> Exists:
    """Return the condition that somebody works on a chunk of a kind and model; who claims one does not."""
    other = aliased(Chunk)
    leased = select(other.number).where(other.status == ChunkStatus.LEASED)
    return leased.where(other.kind == kind, other.model == model).exists()


def paused() -> Exists:
    """Return the condition that an operator has stopped all claims (`rescue`)."""
    return select(Pause.since).exists()


def _failed_at(workplace: str) -> ColumnElement[bool]:
    """Return the condition that a chunk failed at a workplace."""
    return literal(workplace) == any_(Chunk.failed_by)


def fenced_update(session: Session, claim: Attempt, **values: object) -> None:
    """Change a chunk if it still bears the token of this claim.

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
        raise LeaseLostError(f"Chunk {claim.number} of walk {claim.walk_id} is no longer ours.")


def is_due() -> ColumnElement[bool]:
    """Return the condition that a queued chunk may be claimed now.

    Only one that came back from a worker waits, and never longer than the longest wait: a time that lies further
    ahead is from before PostgreSQL's clock was set back.
    """
    return or_(
        Chunk.priority > 0, Chunk.scheduled_at <= func.now(), Chunk.scheduled_at > _from_now(LONGEST_WAIT_SECONDS)
    )


def count_ready(session: Session) -> dict[ChunkKind, int]:
    """Return the number of chunks of each kind that could be claimed now."""
    counts = session.execute(
        select(Chunk.kind, func.count().label("due"))
        .where(Chunk.status == ChunkStatus.QUEUED, is_due(), ~paused())
        .group_by(Chunk.kind)
    )
    return {row.kind: row.due for row in counts}


_FAILURES = {
    ChunkKind.RENDER: ("render_failed", "A part of this walk could not be rendered"),
    ChunkKind.ASSEMBLE: ("assembly_failed", "The frames of this walk could not be stitched together"),
}


def fail_walk(session: Session, walk_id: UUID, kind: ChunkKind, *, hopeless: bool = False) -> None:
    """Fail a walk because of a chunk; why the chunk failed is for operators, on the chunk and in the log."""
    code, sentence = _FAILURES[kind]
    message = f"{sentence}, although it was tried {settings().max_attempts} times."
    if hopeless:
        message = f"{sentence}: it fails in the same way each time. With other settings it may work."
    end_walk(session, walk_id, WalkStatus.FAILED, error_code=code, error_message=message)


def end_walk(session: Session, walk_id: UUID, status: WalkStatus, **values: str) -> bool:
    """End a walk that has not succeeded, and drop what is left of it; its workers notice at their next report.

    Returns False, and changes nothing, if the walk is over already.
    """
    lock_chunks(session, walk_id)
    ended = session.execute(
        update(Walk)
        .where(Walk.id == walk_id, Walk.status.in_(ACTIVE))
        .values(status=status, finished_at=func.now(), **notifications.changed(session, walk_id), **values)
    )
    if not rowcount(ended):
        return False
    session.execute(
        update(Chunk)
        .where(Chunk.walk_id == walk_id, Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]))
        .values(**release_values(ChunkStatus.DROPPED), finished_at=func.now())
    )
    deliveries.announce(session, walk_id, status)
    return True


def lock_chunks(session: Session, walk_id: UUID) -> None:
    """Lock all chunks of a walk, in their order; also those that were added by whom it had to wait for."""
    locked = None
    in_order = select(Chunk.number).where(Chunk.walk_id == walk_id).order_by(Chunk.number)
    while locked != (there := session.scalars(in_order.with_for_update()).all()):
        locked = there


def release_values(status: ChunkStatus) -> dict[str, object]:
    """Return the values of a chunk that leaves the hands of its worker; if it is to be done again, then soon."""
    return {"status": status, "lease_token": None, "lease_expires_at": None, "priority": fairness.LOST}


def _backoff_seconds(attempt: int) -> float:
    """Return the time until a chunk is due again after its n-th attempt failed: 1, 2, 4, 8 … seconds."""
    return min(2.0 ** (attempt - 1), 60.0)


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + literal(timedelta(seconds=seconds), Interval)


def _stored(frame: Frame) -> StoredObject | None:
    if frame.object is None or frame.bytes is None or frame.crc32c is None:
        return None
    return StoredObject(frame.object, frame.bytes, frame.crc32c)


def rowcount(result: Result[Any]) -> int:
    """Return the number of rows that a statement changed."""
    return cast("CursorResult[Any]", result).rowcount
