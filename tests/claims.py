"""Chunks in the hands of a worker that renders nothing."""

from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.queue import leases, results
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import UploadedFrame
from momalisa.storage.bucket import StoredObject


def claim_if_any(kind: ChunkKind = ChunkKind.RENDER) -> Claim | None:
    """Claim a chunk, if one is ready."""
    with transaction() as session:
        return leases.claim(session, kind, "here")


def claim(kind: ChunkKind = ChunkKind.RENDER) -> Claim:
    """Claim a chunk, which must be ready."""
    found = claim_if_any(kind)
    assert found is not None
    return found


def made_frames(claim: Claim) -> list[UploadedFrame]:
    """Return the frames of a chunk as if they were rendered and uploaded."""
    return [
        UploadedFrame(frame.position, StoredObject(f"w/{frame.position}.png", 9, "AAAAAA=="), b"", "")
        for frame in claim.frames
    ]


def finish(claimed: Claim) -> Ready | None:
    """Record the frames of a chunk, and return what is ready now."""
    with transaction() as session:
        return results.record_frames(session, claimed, made_frames(claimed))


def render_a_chunk() -> None:
    """Claim a render chunk and record its frames."""
    finish(claim())
