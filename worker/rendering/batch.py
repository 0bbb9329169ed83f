"""From positions on a walk to frames in the bucket, rendered as one batch.

This runs where the model is: in a render worker, or behind an endpoint (`worker/vertex/server.py`).
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from momalisa.domain.spec import WalkSpec, frame_key
from momalisa.domain.states import Flag
from momalisa.queue.results import FlaggedFrame, MadeFrame
from momalisa.storage import bucket
from momalisa.telemetry.logging import logger
from worker.cancellation import CancellationToken
from worker.media import encoders
from worker.media.encoders import Picture
from worker.media.metadata import frame_caption
from worker.media.thumbnail import thumbnail

if TYPE_CHECKING:
    from worker.rendering.pipeline import Renderer

log = logger(__name__)


@dataclass(frozen=True)
class RenderRequest:
    """Frames of one walk to render in one batch, because the other frames in a batch change pixels slightly."""

    walk_id: UUID
    secret: str = field(repr=False)
    """Secret of the walk, a part of its object names."""
    model: str
    """Name of the model that the walk was made for."""
    spec: WalkSpec
    positions: tuple[float, ...]
    to_upload: frozenset[float]
    """Positions of the frames to upload and report; if it is empty, nothing is rendered."""
    batch_size: int
    """Frames that are rendered at once, as stored on the walk."""


class Batch(NamedTuple):
    """The result of a render request."""

    content_hashes: tuple[str, ...]
    """Of the frame at each position, uploaded or not (`spec.frame_key`)."""
    made: list[MadeFrame | FlaggedFrame]
    """The frames to upload, in the order of their positions."""
    warnings: list[str]
    """About how the model reads the prompts, for visitors."""


def render_batch(renderer: "Renderer", request: RenderRequest, token: CancellationToken) -> Batch:
    """Render the frames of a request as one batch, and upload those that it asks for.

    Raises:
        Exception: what `token` raises when the work is cancelled.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses the upload, or stays unavailable.
    """
    spec = request.spec

    def content_hashes(batch_size: int) -> tuple[str, ...]:
        return tuple(frame_key(spec, each, renderer.revision, batch_size) for each in request.positions)

    warnings = renderer.warnings(spec)
    if not request.to_upload:
        return Batch(content_hashes(renderer.batch_that_fits(spec, request.batch_size)), [], warnings)
    started = time.monotonic()
    rendering = renderer.render(spec, list(request.positions), token.checkpoint, batch_size=request.batch_size)
    token.rendered, token.to_record = len(request.positions), len(request.to_upload)
    hashes = content_hashes(rendering.batch_size)
    log.info("batch rendered", seconds=round(time.monotonic() - started, 3))

    def upload(
        position: float, content_hash: str, picture: Picture, flag: Flag | None
    ) -> MadeFrame | FlaggedFrame | None:
        if position not in request.to_upload:
            return None
        if flag is not None:
            return FlaggedFrame(position, flag)
        name = bucket.frame_name(request.walk_id, request.secret, position)
        data = encoders.encode_png(picture, frame_caption(spec, request.model, position))
        stored = bucket.upload(name, data, "image/png", check=token.checkpoint, confirm=token.verify)
        return MadeFrame(position, stored, thumbnail(picture), content_hash)

    uploads = token.run_concurrently(upload, request.positions, hashes, rendering.pictures, rendering.flags)
    return Batch(hashes, [frame for frame in uploads if frame is not None], warnings)
