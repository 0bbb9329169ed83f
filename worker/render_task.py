"""What a worker does with a claimed chunk of frames: copy or render them, and upload them."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from momalisa.db.session import transaction
from momalisa.queue import results
from momalisa.queue.leases import Claim, ClaimedFrame
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import MadeFrame
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.telemetry.logging import logger
from momalisa.walks import queries
from worker.lease import Lease
from worker.recording import Record
from worker.rendering import batch
from worker.rendering.batch import Batch, RenderRequest
from worker.rendering.loaded import renderer
from worker.vertex import client

log = logger(__name__)


def render(lease: Lease) -> Record:
    """Make the frames of a chunk: copy those that the walk takes over from another, and render the rest.

    What is rendered is rendered as one batch, even if a part of it is recorded: the company in a batch changes
    pixels a little, and a walk that was interrupted shall look like one that was not.
    """
    claim = lease.claim
    copied: dict[ClaimedFrame, MadeFrame | None] = {}
    batch = None
    if claim.from_walk is not None:
        batch = _make(_order(claim, claim.frames, wanted=False), lease)
        copied = _copied(lease, claim.from_walk, dict(zip(claim.frames, batch.keys, strict=True)))
    rest = [frame for frame in claim.frames if frame not in copied]
    if batch is None or rest:
        batch = _make(_order(claim, rest, wanted=True), lease)
    made = [frame for frame in copied.values() if frame is not None] + batch.made
    warnings = batch.warnings

    def record(session: Session) -> Ready | None:
        due = results.record_frames(session, claim, made)
        results.add_warnings(session, claim, warnings)
        return due

    return record


def _order(claim: Claim, chosen: Sequence[ClaimedFrame], *, wanted: bool) -> RenderRequest:
    """Return the order for some frames of a chunk; what is recorded already is not wanted again."""
    missing = frozenset(frame.position for frame in chosen if wanted and frame.missing)
    return RenderRequest(
        walk_id=claim.walk_id,
        secret=claim.secret,
        model=claim.model,
        spec=claim.spec,
        positions=tuple(frame.position for frame in chosen),
        wanted=missing,
        batch_size=claim.batch_size,
    )


def _make(order: RenderRequest, lease: Lease) -> Batch:
    """Have an order made where the model is."""
    return client.make(order, lease) if settings().renderer == "vertex" else batch.make(renderer(), order, lease)


def _copied(lease: Lease, source: UUID, keys: dict[ClaimedFrame, str]) -> dict[ClaimedFrame, MadeFrame | None]:
    """Copy the frames that the walk takes over from another, inside the bucket.

    Returns those that need not be rendered; None stands for one that was recorded before.
    """
    claim = lease.claim
    with transaction() as session:
        found = queries.reusable_frames(session, source, list(keys.values()), viewer=claim.owner)

    def copy(frame: ClaimedFrame) -> MadeFrame | None:
        original, looks = found[keys[frame]]
        stored = bucket.copy(
            original, bucket.frame_name(claim.walk_id, claim.secret, frame.position), check=lease.checkpoint
        )
        return None if stored is None else MadeFrame(frame.position, stored, looks, keys[frame])

    known = [frame for frame in keys if keys[frame] in found]
    missing = [frame for frame in known if frame.missing]
    copies = dict(zip(missing, lease.run_concurrently(copy, missing), strict=True))
    log.info("frames taken over", frames=sum(made is not None for made in copies.values()))
    return {frame: copies.get(frame) for frame in known if frame.stored or copies[frame]}
