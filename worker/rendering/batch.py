"""From positions on a walk to frames in the bucket, rendered as one batch.

This runs where the model is: in a render worker, or behind an endpoint (`worker/vertex/server.py`).
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from momalisa.domain.content import content_hashes
from momalisa.domain.pins import MadeWith
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.queue.results import FlaggedFrame, UploadedFrame
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
    """Frames of one walk to render as one batch, since the other frames of a batch change pixels slightly."""

    walk_id: UUID
    secret: str = field(repr=False)
    """Secret of the walk, a part of its object names."""
    model: str
    """Name of the model of the walk."""
    spec: WalkSpec
    positions: tuple[float, ...]
    to_upload: frozenset[float]
    """Positions of the frames to upload and report; if it is empty, nothing is rendered."""
    batch_size: int
    """Size to which the batch is padded, as stored on the walk."""


class Batch(NamedTuple):
    """The result of a render request."""

    content_hashes: tuple[str, ...]
    """Of the frame at each position, whether uploaded or not (`domain.content`)."""
    made: list[UploadedFrame | FlaggedFrame]
    """The uploaded and the flagged frames among `to_upload`, in the order of their positions."""
    warnings: list[str]
    """For users, about how the model reads the prompts."""
    made_with: MadeWith
    batch_size: int
    """How many frames are rendered at once: fewer than requested if memory ran out."""


def render_batch(renderer: "Renderer", request: RenderRequest, token: CancellationToken) -> Batch:
    """Render the frames of a request as one batch, and upload those that it names.

    Raises:
        Exception: whatever `token` raises if the work is cancelled.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses the upload, or stays unavailable.
    """
    spec = request.spec

    def result(batch_size: int, made: list[UploadedFrame | FlaggedFrame]) -> Batch:
        return Batch(hashes(batch_size), made, renderer.warnings(spec), renderer.made_with, batch_size)

    def hashes(batch_size: int) -> tuple[str, ...]:
        return content_hashes(spec, request.positions, renderer.made_with.model_dump_json(), batch_size)

    if not request.to_upload:
        return result(renderer.batch_that_fits(spec, request.batch_size), [])
    started = time.monotonic()
    rendering = renderer.render(spec, list(request.positions), token.checkpoint, batch_size=request.batch_size)
    token.rendered, token.to_record = len(request.positions), len(request.to_upload)
    log.info("batch rendered", seconds=round(time.monotonic() - started, 3))

    def upload(
        position: float, content_hash: str, picture: Picture, flag: Flag | None
    ) -> UploadedFrame | FlaggedFrame | None:
        if position not in request.to_upload:
            return None
        if flag is not None:
            return FlaggedFrame(position, flag)
        name = bucket.frame_name(request.walk_id, request.secret, position)
        data = encoders.encode_png(picture, frame_caption(spec, request.model, position))
        stored = bucket.upload(name, data, "image/png", check=token.checkpoint, confirm=token.verify)
        return UploadedFrame(position, stored, thumbnail(picture), content_hash)

    uploads = token.run_concurrently(
        upload, request.positions, hashes(rendering.batch_size), rendering.pictures, rendering.flags
    )
    return result(rendering.batch_size, [frame for frame in uploads if frame is not None])
