"""Rendering a claimed chunk: its frames are copied from another walk, or rendered and uploaded."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.orm import Session

from momalisa.db.session import transaction
from momalisa.queue import results
from momalisa.queue.leases import Claim, ClaimedFrame
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import FlaggedFrame, UploadedFrame
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.telemetry.logging import logger
from momalisa.walks import queries
from worker.lease import Lease
from worker.recording import Record
from worker.rendering.batch import Batch, RenderRequest, render_batch
from worker.rendering.loaded import renderer
from worker.vertex import client

log = logger(__name__)


def render(lease: Lease) -> Record:
    """Copy the frames of a chunk that the walk can reuse from another walk, and render the rest.

    All frames are rendered as one batch, even those that are copied or already recorded: the other frames in a
    batch change pixels slightly, and an interrupted walk must look like one that was not interrupted. For the same
    reason, keys that were lost are rendered again first.

    Raises:
        KeysLostError: if files of keys cannot be read.
    """
    claim = lease.claim
    made, batch = _make(lease)
    made_with, batch_size, warnings = batch.made_with, batch.batch_size, batch.warnings + _differences(claim, batch)

    def record(session: Session) -> Ready | None:
        ready = results.record_frames(session, claim, made, made_with, batch_size, interpolated=batch.interpolated)
        results.add_warnings(session, claim, warnings)
        return ready

    return record


def _make(lease: Lease) -> tuple[list[UploadedFrame | FlaggedFrame], Batch]:
    """Copy or render the frames of a chunk, and return those that were missing and the batch that was rendered."""
    claim = lease.claim
    copied: dict[ClaimedFrame, UploadedFrame | None] = {}
    batch = None
    if claim.from_walk is not None:
        batch = _render(_request(claim, ()), lease)
        copied = _copy_reusable(lease, claim.from_walk, dict(zip(claim.frames, batch.content_hashes, strict=True)))
    rest = [frame for frame in claim.frames if frame not in copied]
    if batch is None or rest:
        batch = _render(_request(claim, rest), lease)
    return [frame for frame in copied.values() if frame is not None] + batch.made, batch


def _differences(claim: Claim, batch: Batch) -> list[str]:
    """Return why frames may differ from those that the walk is pinned to, in sentences for visitors."""
    if claim.pinned_to is None:
        return []
    found = claim.pinned_to.differences(batch.made_with)
    if batch.batch_size < claim.batch_size:
        found.append(
            f"This walk was first made in batches of {claim.batch_size} frames, for which a worker has too little "
            "memory: its pictures may differ from those."
        )
    return found


def _request(claim: Claim, wanted: Collection[ClaimedFrame]) -> RenderRequest:
    """Return a request to render a chunk, of which the wanted frames are uploaded unless they are recorded."""
    return RenderRequest(
        walk_id=claim.walk_id,
        secret=claim.secret,
        model=claim.model,
        spec=claim.spec,
        positions=tuple(frame.position for frame in claim.frames),
        to_upload=frozenset(frame.position for frame in wanted if frame.missing),
        batch_size=claim.batch_size,
        interpolated=claim.interpolated,
        keys=claim.keys,
    )


def _render(request: RenderRequest, lease: Lease) -> Batch:
    """Render a request in this process, or on the Vertex AI endpoint."""
    if settings().renderer == "vertex":
        return client.render_batch(request, lease)
    return render_batch(renderer(), request, lease)


def _copy_reusable(
    lease: Lease, source: UUID, content_hashes: dict[ClaimedFrame, str]
) -> dict[ClaimedFrame, UploadedFrame | None]:
    """Copy the frames that the walk can reuse from another walk, inside the bucket.

    Returns the frames that need not be rendered, each with its copy, or None if it was already recorded.
    """
    claim = lease.claim
    with transaction() as session:
        found = queries.reusable_frames(session, source, list(content_hashes.values()), viewer=claim.owner)

    def copy(frame: ClaimedFrame) -> UploadedFrame | None:
        original = found[content_hashes[frame]]
        stored = bucket.copy(
            original.stored, bucket.frame_name(claim.walk_id, claim.secret, frame.position), check=lease.checkpoint
        )
        if stored is None:
            return None
        same_place = (original.position, original.legs) == (frame.position, claim.spec.legs)
        made = UploadedFrame(frame.position, stored, original.thumbnail, content_hashes[frame], copied=True)
        return made._replace(
            interpolated=original.interpolated,
            latents=original.latents,
            check=original.check if same_place else None,
            error=original.error,
        )

    reusable = [frame for frame in content_hashes if content_hashes[frame] in found]
    missing = [frame for frame in reusable if frame.missing]
    copies = dict(zip(missing, lease.run_concurrently(copy, missing), strict=True))
    log.info("frames reused", frames=sum(made is not None for made in copies.values()))
    return {frame: copies.get(frame) for frame in reusable if frame.stored or copies[frame]}
