"""Chunks of dense walks, finished without a model."""

from momalisa.db.session import transaction
from momalisa.domain import dense
from momalisa.domain.dense import Check
from momalisa.queue import results
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import UploadedFrame
from momalisa.storage.bucket import StoredObject
from tests.claims import claim_if_any


def finish(claimed: Claim, error: float = 0.5, *, denoised: bool = False) -> Ready | None:
    """Record the frames of a chunk, whose pictures change evenly, and whose checks all find the same error.

    They may be denoised, although they were to be interpolated.
    """
    between = claimed.interpolated and not denoised
    keys = [key.position for key in claimed.keys]
    made = []
    for frame in claimed.frames:
        near = dense.neighbours(frame.position, keys, claimed.spec.legs)
        check = None
        if near and not between:
            start = max(key for key in near if key < frame.position)
            end = min(key for key in near if key > frame.position)
            check = Check(start=start, end=end, mean=error, block=error)
        made.append(
            UploadedFrame(
                frame.position,
                StoredObject(f"w/{frame.position}.png", 9, "AAAAAA=="),
                bytes([round(255 * frame.position)]) * 12,
                f"hash of {frame.position}",
                interpolated=between,
                latents=not between,
                check=check,
            )
        )
    with transaction() as session:
        return results.record_frames(session, claimed, made, interpolated=between)


def finish_all() -> list[Claim]:
    """Claim and finish chunks until none is ready, and return them."""
    claims = []
    while claimed := claim_if_any():
        claims.append(claimed)
        finish(claimed)
    return claims
