"""What workers report of what they have made: frames, artifacts, and frames that turned out to be lost.

Each function works inside the transaction of its caller (`database.transaction`), who commits, and is fenced by the
lease of its claim (`chunks`). Rows are locked in the order that `chunks` keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, insert, literal, not_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa import chunks, webhooks
from momalisa.chunks import Claim
from momalisa.settings import settings
from momalisa.storage import StoredObject
from momalisa.tables import Artifact, ArtifactKind, Chunk, ChunkKind, ChunkStatus, Frame, Walk, WalkStatus


@dataclass(frozen=True)
class MadeArtifact:
    """An artifact that was made and uploaded."""

    kind: ArtifactKind
    stored: StoredObject
    width: int
    height: int


def warn(session: Session, claim: Claim, warnings: Sequence[str]) -> None:
    """Put warnings that visitors shall read on the walk, each once."""
    for warning in warnings:
        session.execute(
            update(Walk)
            .where(Walk.id == claim.walk_id, not_(Walk.warnings.contains([warning])))
            .values(warnings=Walk.warnings.op("||")(literal([warning], JSONB)), revision=Walk.revision + 1)
        )


def frames_done(session: Session, claim: Claim, stored: Sequence[tuple[float, StoredObject]]) -> bool:
    """Record the frames of a chunk, each a position and its object, and close the chunk.

    Returns whether these were the last frames of the walk, which then waits for its assembly: the caller
    publishes a permit for it after the commit.

    Raises:
        LeaseLostError: if the chunk is no longer ours.
    """
    chunks.report(session, claim, **chunks.released(ChunkStatus.DONE), finished_at=func.now())
    new = 0
    for position, object_ in stored:
        recorded = session.execute(
            update(Frame)
            .where(Frame.walk_id == claim.walk_id, Frame.position == position, Frame.object.is_(None))
            .values(object=object_.name, bytes=object_.bytes, crc32c=object_.crc32c, rendered_at=func.now())
        )
        new += chunks.rows(recorded)
    missing = session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id, Walk.status.in_([WalkStatus.RUNNING, WalkStatus.ASSEMBLING]))
        .values(frames_done=Walk.frames_done + new, revision=Walk.revision + 1)
        .returning(Walk.frames_total - Walk.frames_done)
    ).scalar_one()
    if missing:
        return False
    session.execute(update(Walk).where(Walk.id == claim.walk_id).values(status=WalkStatus.ASSEMBLING))
    last = select(func.max(Chunk.number)).where(Chunk.walk_id == claim.walk_id).scalar_subquery()
    owner = select(Chunk.owner).where(Chunk.walk_id == claim.walk_id, Chunk.number == 0).scalar_subquery()
    session.execute(
        insert(Chunk).values(
            walk_id=claim.walk_id, number=last + 1, kind=ChunkKind.ASSEMBLE, owner=owner, rank=1, turn=0
        )
    )
    return True


def assembled(session: Session, claim: Claim, artifacts: Sequence[MadeArtifact]) -> None:
    """Record the artifacts of a walk and close it.

    Raises:
        LeaseLostError: if the chunk is no longer ours.
    """
    chunks.report(session, claim, **chunks.released(ChunkStatus.DONE), finished_at=func.now())
    session.execute(
        insert(Artifact),
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
        ],
    )
    session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id, Walk.status == WalkStatus.ASSEMBLING)
        .values(status=WalkStatus.SUCCEEDED, finished_at=func.now(), revision=Walk.revision + 1)
    )
    webhooks.announce(session, claim.walk_id, WalkStatus.SUCCEEDED)


def frames_lost(session: Session, claim: Claim, positions: Sequence[float]) -> bool:
    """Have frames rendered again that an assembly found missing or damaged; the assembly comes again after them.

    The walk stays `assembling`: nobody shall see it go backwards. Returns whether the frames will be rendered
    again; if their chunk has been tried as often as it may, the walk fails instead.

    Raises:
        LeaseLostError: if the assembly is no longer ours.
    """
    chunks.lock(session, claim.walk_id)
    chunks.report(session, claim, **chunks.released(ChunkStatus.DROPPED), finished_at=func.now())
    lost = and_(Frame.walk_id == claim.walk_id, Frame.position.in_(positions))
    of_lost = and_(
        Chunk.walk_id == claim.walk_id, Chunk.number.in_(select(Frame.chunk).where(lost).scalar_subquery())
    )
    attempts = session.execute(select(func.max(Chunk.attempts)).where(of_lost)).scalar_one()
    if attempts >= settings().max_attempts:
        chunks.fail(session, claim.walk_id, ChunkKind.ASSEMBLE)
        return False
    session.execute(
        update(Chunk)
        .where(of_lost)
        .values(
            **chunks.released(ChunkStatus.QUEUED), due_at=func.now(), finished_at=None, error="frames were damaged"
        )
    )
    session.execute(update(Frame).where(lost).values(object=None, bytes=None, crc32c=None, rendered_at=None))
    session.execute(
        update(Walk)
        .where(Walk.id == claim.walk_id)
        .values(frames_done=Walk.frames_done - len(positions), revision=Walk.revision + 1)
    )
    return True
