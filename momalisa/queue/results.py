"""Results of workers: rendered frames, artifacts, and frames that an assembly found damaged.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits. It is fenced by
the lease of its claim (`leases`), and locks rows in the order of `lifecycle`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from sqlalchemy import and_, case, cast, column, func, insert, literal, not_, select, update, values
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.models import Artifact, Chunk, Frame, Walk
from momalisa.db.session import rowcount
from momalisa.domain import pacing
from momalisa.domain.states import ArtifactKind, ChunkKind, ChunkStatus, Flag, WalkStatus
from momalisa.queue import fairness, leases, lifecycle
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.webhooks import deliveries

MISSING = and_(Frame.object.is_(None), Frame.flagged.is_(None))
"""The condition that a frame is still to be rendered."""


class MadeFrame(NamedTuple):
    """A frame that was rendered, or copied, and uploaded."""

    position: float
    stored: StoredObject
    thumbnail: bytes
    """The picture in 32 × 32 pixels, by which later frames are placed (`pacing`)."""
    content_hash: str
    """Equal for frames that show the same (`spec.frame_key`)."""


class FlaggedFrame(NamedTuple):
    """A frame that was rendered and must not be shown."""

    position: float
    flag: Flag


@dataclass(frozen=True)
class MadeArtifact:
    """An artifact that was encoded and uploaded."""

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


def record_frames(session: Session, claim: Claim, made: Sequence[MadeFrame | FlaggedFrame]) -> Ready | None:
    """Record the frames of a chunk, complete it, and enqueue what comes next.

    After the last frame of a pass that is the next pass, planned from what was recorded; after the last frame of
    the walk it is the assembly.

    Returns:
        What was enqueued, if anything; the caller publishes wake-up messages for it after the commit.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    leases.fenced_update(session, claim, **lifecycle.release_values(ChunkStatus.DONE), finished_at=func.now())
    new = _record(session, claim, made) if made else 0
    missing = session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id, Walk.status.in_([WalkStatus.RUNNING, WalkStatus.ASSEMBLING]))
        .values(frames_done=Walk.frames_done + new, **notifications.changed(session, claim.walk_id))
        .returning(Walk.frames_total - Walk.frames_done)
    ).scalar_one()
    # This locks the walk, so that of two chunks that are recorded at once the second sees all frames.
    return _next_pass(session, claim) if missing else _assembly(session, claim)


def _record(session: Session, claim: Claim, made: Sequence[MadeFrame | FlaggedFrame]) -> int:
    """Record frames, by one statement, and return how many were missing until then."""
    columns = (
        Frame.position,
        Frame.object,
        Frame.bytes,
        Frame.crc32c,
        Frame.flagged,
        Frame.thumbnail,
        Frame.content_hash,
    )
    rows = [
        (frame.position, None, None, None, frame.flag, None, None)
        if isinstance(frame, FlaggedFrame)
        else (frame.position, *astuple(frame.stored), None, frame.thumbnail, frame.content_hash)
        for frame in made
    ]
    new = values(*(column(each.key, each.type) for each in columns), name="new").data(rows).c
    recorded = session.execute(
        update(Frame)
        .where(Frame.walk_id == claim.walk_id, Frame.position == new.position, MISSING)
        .values({each: cast(new[each.key], each.type) for each in columns[1:]})  # NULLs alone would be text
        .values(rendered_at=case((new.object.is_not(None), func.now())))
        .execution_options(synchronize_session=False)
    )
    return rowcount(recorded)


def _next_pass(session: Session, claim: Claim) -> Ready | None:
    mine = Frame.walk_id == claim.walk_id
    if session.scalars(select(Frame.position).where(mine, MISSING).limit(1)).first() is not None:
        return None
    recorded = session.execute(select(Frame.position, Frame.thumbnail).where(mine)).all()
    thumbnails: dict[float, bytes | None] = {frame.position: frame.thumbnail for frame in recorded}
    positions = pacing.plan_next_pass(claim.spec, thumbnails, claim.batch_size)
    return lifecycle.enqueue(session, claim.walk_id, claim.tenant, claim.model, positions, claim.batch_size)


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


def complete_walk(session: Session, claim: Claim, artifacts: Sequence[MadeArtifact]) -> None:
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
    session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id, Walk.status == WalkStatus.ASSEMBLING)
        .values(
            status=WalkStatus.SUCCEEDED, finished_at=func.now(), **notifications.changed(session, claim.walk_id)
        )
    )
    deliveries.enqueue(session, claim.walk_id, WalkStatus.SUCCEEDED)


def substitute_flagged(session: Session, claim: Claim, neighbours: Mapping[float, StoredObject]) -> None:
    """Give flagged frames, by position, the objects of the neighbours that are shown in their place."""
    for position, neighbour in neighbours.items():
        flagged = and_(Frame.walk_id == claim.walk_id, Frame.position == position)
        session.execute(update(Frame).where(flagged).values(_recorded(neighbour)))


def fail_without_frames(session: Session, claim: Claim) -> None:
    """Fail a walk all of whose frames are flagged.

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
    """Have frames rendered again that an assembly found missing or damaged; another assembly follows them.

    The walk stays `assembling`: its status never goes backwards. If the chunk of the frames has no attempts left,
    the walk fails instead. If frames were moved to other names meanwhile (`relocation`), only the assembly is
    repeated.

    Returns:
        What was enqueued, if anything; the caller publishes wake-up messages for it after the commit.

    Raises:
        LeaseLostError: if the lease is lost.
    """
    lifecycle.lock_chunks(session, claim.walk_id)
    lost = and_(Frame.walk_id == claim.walk_id, Frame.position.in_(positions))
    names = {frame.position: frame.stored and frame.stored.name for frame in claim.frames}
    recorded = session.execute(select(Frame.position, Frame.object).where(lost)).all()
    if any(name != names[position] for position, name in recorded):
        leases.release(session, claim)
        return Ready(ChunkKind.ASSEMBLE)
    leases.fenced_update(session, claim, **lifecycle.release_values(ChunkStatus.DROPPED), finished_at=func.now())
    of_lost = and_(
        Chunk.walk_id == claim.walk_id, Chunk.number.in_(select(Frame.chunk).where(lost).scalar_subquery())
    )
    attempts = session.execute(select(func.max(Chunk.attempts)).where(of_lost)).scalar_one()
    if attempts >= settings().max_attempts:
        lifecycle.fail_walk(session, claim.walk_id, ChunkKind.ASSEMBLE)
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
    cleared = ("object", "bytes", "crc32c", "rendered_at", "thumbnail", "content_hash")
    session.execute(update(Frame).where(lost).values(dict.fromkeys(cleared)))
    session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id)
        .values(frames_done=Walk.frames_done - len(positions), **notifications.changed(session, claim.walk_id))
    )
    return Ready(ChunkKind.RENDER, model=claim.model)
