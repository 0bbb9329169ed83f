"""Results of workers: rendered frames, artifacts, and recorded frames that a worker found lost.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits. Its writes are
fenced by the lease token of the claim (`leases`), and it locks rows in the order of `lifecycle`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from sqlalchemy import and_, case, cast, column, func, insert, literal, not_, select, update, values
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.models import Artifact, Chunk, Frame, Walk
from momalisa.db.session import record_after_commit, rowcount
from momalisa.domain import passes
from momalisa.domain.dense import Check
from momalisa.domain.passes import Recorded
from momalisa.domain.pins import MadeWith
from momalisa.domain.states import ArtifactKind, ChunkKind, ChunkStatus, Flag, WalkStatus
from momalisa.queue import budgets, fairness, leases, lifecycle
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import MISSING, Ready
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry import metrics
from momalisa.webhooks import deliveries


class UploadedFrame(NamedTuple):
    """A frame that was rendered or copied, and is in the bucket."""

    position: float
    stored: StoredObject
    thumbnail: bytes
    """The picture in 32 × 32 pixels, from which later frames are placed (`pacing`)."""
    content_hash: str
    """Equal for equal pictures (`domain.content`)."""
    interpolated: bool = False
    copied: bool = False
    latents: bool = False
    """Whether the object carries its latents."""
    check: Check | None = None
    """Of a denoised frame between frames of earlier passes that have latents."""
    error: float | None = None
    """Of a copy of an interpolated frame: the expected error, as recorded there."""


class FlaggedFrame(NamedTuple):
    """A frame that was rendered but must not be shown."""

    position: float
    flag: Flag


@dataclass(frozen=True)
class UploadedArtifact:
    """An artifact that was encoded, and is in the bucket."""

    kind: ArtifactKind
    stored: StoredObject
    width: int
    height: int


def add_warnings(session: Session, claim: Claim, warnings: Sequence[str]) -> None:
    """Add warnings for clients to the walk, each once."""
    for warning in warnings:
        session.execute(
            update(Walk)
            .where(Walk.id == claim.walk_id, not_(Walk.warnings.contains([warning])))
            .values(
                warnings=Walk.warnings.op("||")(literal([warning], JSONB)),
                **notifications.changed(session, claim.walk_id),
            )
        )


def record_frames(
    session: Session,
    claim: Claim,
    frames: Sequence[UploadedFrame | FlaggedFrame],
    made_with: MadeWith | None = None,
    batch_size: int | None = None,
    *,
    interpolated: bool | None = None,
) -> Ready | None:
    """Record the frames of a chunk, complete it, and enqueue what follows.

    The last frame of a pass is followed by the next pass, planned from the recorded frames; the last frame of the
    walk is followed by the assembly.

    Args:
        session: of the caller.
        claim: of the chunk.
        frames: what was made.
        made_with: what rendered them.
        batch_size: how many of them were rendered at once, if not as many as planned.
        interpolated: whether they were interpolated, if not as planned.

    Returns:
        The chunks that were enqueued, if any; the caller publishes wake-up messages for them after the commit.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    between = claim.interpolated if interpolated is None else interpolated
    rendered = {"made_with": made_with, "batch_size": batch_size or claim.batch_size, "interpolated": between}
    leases.fenced_update(
        session, claim, **lifecycle.release_values(ChunkStatus.DONE), **rendered, finished_at=func.now()
    )
    new = _record(session, claim, frames, interpolated=between) if frames else 0
    missing, done, size, age = session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id, Walk.status.in_([WalkStatus.RUNNING, WalkStatus.ASSEMBLING]))
        .values(frames_done=Walk.frames_done + new, **notifications.changed(session, claim.walk_id))
        .returning(Walk.frames_total - Walk.frames_done, Walk.frames_done, Walk.batch_size, lifecycle.age_seconds())
    ).one()
    if 0 < new == done:
        record_after_commit(session, metrics.FIRST_FRAME_SECONDS, float(age))
    # The update locks the walk, so of two chunks that are recorded at once the second sees all frames.
    return _next_pass(session, claim, size) if missing else _assembly(session, claim)


def _record(
    session: Session, claim: Claim, frames: Sequence[UploadedFrame | FlaggedFrame], *, interpolated: bool
) -> int:
    """Record frames by one statement, and return how many of them were missing before."""
    columns = (
        Frame.position,
        Frame.object,
        Frame.bytes,
        Frame.crc32c,
        Frame.flagged,
        Frame.thumbnail,
        Frame.content_hash,
        Frame.interpolated,
        Frame.copied,
        Frame.latents,
        Frame.check,
        Frame.error,
    )
    rows = [
        (frame.position, None, None, None, frame.flag, None, None, interpolated, False, False, None, None)
        if isinstance(frame, FlaggedFrame)
        else (
            *(frame.position, *astuple(frame.stored), None, frame.thumbnail, frame.content_hash),
            *(frame.interpolated, frame.copied, frame.latents, frame.check, frame.error),
        )
        for frame in frames
    ]
    new = values(*(column(each.key, each.type) for each in columns), name="new").data(rows).c
    recorded = session.execute(
        update(Frame)
        .where(Frame.walk_id == claim.walk_id, Frame.position == new.position, MISSING)
        .values({each: cast(new[each.key], each.type) for each in columns[1:-1]})  # NULLs alone would be text
        .values(error=case((new.interpolated, func.coalesce(cast(new.error, Frame.error.type), Frame.error))))
        .values(rendered_at=case((new.object.is_not(None), func.now())))
        .execution_options(synchronize_session=False)
    )
    return rowcount(recorded)


def _next_pass(session: Session, claim: Claim, batch_size: int) -> Ready | None:
    mine = Frame.walk_id == claim.walk_id
    missing = session.scalars(
        select(Chunk.status)
        .join(Frame, and_(Frame.walk_id == Chunk.walk_id, Frame.chunk == Chunk.number))
        .where(mine, MISSING)
        .distinct()
    ).all()
    if missing:
        queued = 0 if set(missing) - {ChunkStatus.WAITING} else lifecycle.settle_waiting(session, claim.walk_id)
        return Ready(ChunkKind.RENDER, queued, claim.model) if queued else None
    columns = (Frame.chunk, Frame.thumbnail, Frame.latents, Frame.interpolated, Frame.check)
    rows = session.execute(select(Frame.position, *columns).where(mine)).all()
    recorded = {row.position: Recorded(row.thumbnail, row.latents, row.interpolated, row.check) for row in rows}
    planned = passes.plan_next_pass(claim.spec, recorded, batch_size)
    return lifecycle.enqueue(
        session,
        claim.walk_id,
        claim.tenant,
        claim.model,
        planned.batches,
        exact=claim.spec.exact,
        start=1 + max(row.chunk for row in rows),
        errors=planned.errors,
    )


def _assembly(session: Session, claim: Claim) -> Ready:
    session.execute(update(Walk).where(Walk.id == claim.walk_id).values(status=WalkStatus.ASSEMBLING))
    last = select(func.max(Chunk.number)).where(Chunk.walk_id == claim.walk_id).scalar_subquery()
    session.execute(
        insert(Chunk).values(
            walk_id=claim.walk_id,
            number=last + 1,
            kind=ChunkKind.ASSEMBLE,
            tenant=claim.tenant,
            model=fairness.NO_MODEL,
            virtual_time=0,
            priority=fairness.NORMAL,
        )
    )
    return Ready(ChunkKind.ASSEMBLE)


def complete_walk(session: Session, claim: Claim, artifacts: Sequence[UploadedArtifact]) -> None:
    """Record the artifacts of a walk and mark it as succeeded.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    leases.fenced_update(session, claim, **lifecycle.release_values(ChunkStatus.DONE), finished_at=func.now())
    session.execute(
        insert(Artifact).values(
            [
                {
                    "walk_id": claim.walk_id,
                    "kind": artifact.kind,
                    "object": artifact.stored.name,
                    "bytes": artifact.stored.bytes,
                    "crc32c": artifact.stored.crc32c,
                    "width": artifact.width,
                    "height": artifact.height,
                }
                for artifact in artifacts
            ]
        )
    )
    age = session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id, Walk.status == WalkStatus.ASSEMBLING)
        .values(
            status=WalkStatus.SUCCEEDED, finished_at=func.now(), **notifications.changed(session, claim.walk_id)
        )
        .returning(lifecycle.age_seconds())
    ).scalar_one_or_none()
    if age is not None:
        lifecycle.record_end(session, WalkStatus.SUCCEEDED, age)
        budgets.settle(session, claim.walk_id, claim.spec)
    deliveries.enqueue(session, claim.walk_id, WalkStatus.SUCCEEDED)


def substitute_flagged(session: Session, claim: Claim, neighbours: Mapping[float, StoredObject]) -> None:
    """Record for each flagged frame, by position, the object of the neighbour that is shown instead."""
    for position, neighbour in neighbours.items():
        flagged = and_(Frame.walk_id == claim.walk_id, Frame.position == position)
        session.execute(update(Frame).where(flagged).values(_recorded(neighbour)))


def fail_without_frames(session: Session, claim: Claim) -> None:
    """Fail a walk of which all frames are flagged.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    lifecycle.lock_chunks(session, claim.walk_id)
    leases.fenced_update(session, claim, **lifecycle.release_values(ChunkStatus.DONE), finished_at=func.now())
    message = "No frame of this walk can be shown: the model's safety checker flagged them, or they came out black."
    lifecycle.end_walk(session, claim.walk_id, WalkStatus.FAILED, error_code="flagged", error_message=message)


def _recorded(stored: StoredObject) -> dict[str, object]:
    """Return the values of a frame that has an object."""
    return {"object": stored.name, "bytes": stored.bytes, "crc32c": stored.crc32c, "rendered_at": func.now()}


def requeue_frames(session: Session, claim: Claim, positions: Sequence[float]) -> Ready | None:
    """Queue frames again that an assembly found missing or damaged; another assembly follows.

    The walk stays `assembling`: its status never goes backwards. If the chunk of the frames has no attempts left,
    the walk fails instead. If frames were renamed in the meantime (`relocation`), only the assembly is repeated.

    Returns:
        The chunks that were enqueued, if any; the caller publishes wake-up messages for them after the commit.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    lifecycle.lock_chunks(session, claim.walk_id)
    names = {frame.stored.name for frame in claim.frames if frame.stored and frame.position in positions}
    if _renamed(session, claim, names):
        leases.release(session, claim)
        return Ready(ChunkKind.ASSEMBLE)
    leases.fenced_update(session, claim, **lifecycle.release_values(ChunkStatus.DROPPED), finished_at=func.now())
    return _requeue(session, claim, names)


def requeue_keys(session: Session, claim: Claim, positions: Collection[float]) -> Ready | None:
    """Queue keys again that a worker found missing or damaged; chunks of later passes wait for them.

    If the chunk of the keys has no attempts left, the walk fails instead. If keys were renamed in the meantime
    (`relocation`), only this chunk is repeated. The attempt does not count. Unless keys were renamed, other workers
    are preferred for the next one: this one may misread files.

    Returns:
        The chunks that were enqueued, if any; the caller publishes wake-up messages for them after the commit.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    lifecycle.lock_chunks(session, claim.walk_id)
    names = {key.stored.name for key in claim.keys if key.position in positions}
    renamed = _renamed(session, claim, names)
    leases.release(session, claim, failed_here=not renamed)
    if renamed:
        return Ready(ChunkKind.RENDER, model=claim.model)
    return _requeue(session, claim, names)


def _renamed(session: Session, claim: Claim, names: Collection[str]) -> bool:
    """Return whether some frames of a walk no longer have these object names."""
    recorded = select(func.count()).where(Frame.walk_id == claim.walk_id, Frame.object.in_(names))
    return session.execute(recorded).scalar_one() < len(names)


def _requeue(session: Session, claim: Claim, names: Collection[str]) -> Ready | None:
    """Queue the chunks of frames whose objects were lost, or fail the walk if one has no attempts left."""
    lost = and_(Frame.walk_id == claim.walk_id, Frame.object.in_(names))
    numbers = session.scalars(select(Frame.chunk).where(lost)).all()
    of_lost = and_(Chunk.walk_id == claim.walk_id, Chunk.number.in_(numbers))
    attempts = session.execute(select(func.max(Chunk.attempts)).where(of_lost)).scalar_one()
    if attempts >= settings().max_attempts:
        lifecycle.fail_walk(session, claim.walk_id, claim.kind)
        return None
    session.execute(
        update(Chunk)
        .where(of_lost)
        .values(
            **lifecycle.release_values(ChunkStatus.QUEUED),
            scheduled_at=func.now(),
            finished_at=None,
            error="frames were damaged",
        )
    )
    cleared = ("object", "bytes", "crc32c", "rendered_at", "thumbnail", "content_hash", "check")
    session.execute(update(Frame).where(lost).values(dict.fromkeys(cleared)).values(latents=False))
    lifecycle.settle_waiting(session, claim.walk_id)
    session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id)
        .values(frames_done=Walk.frames_done - len(numbers), **notifications.changed(session, claim.walk_id))
    )
    return Ready(ChunkKind.RENDER, len(set(numbers)), claim.model)
