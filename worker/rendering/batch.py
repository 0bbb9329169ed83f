"""From positions on a walk to frames in the bucket: rendered as one batch, uploaded, and told of.

This is done where the model is: in a render worker, or behind an endpoint (`vertex`, `prediction`).
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
    """Frames of one walk that are to be made together, since the company in a batch changes pixels a little."""

    walk_id: UUID
    secret: str | None = field(repr=False)
    """Of the walk, for the names of its objects; None of an older worker, whose names had none."""
    model: str
    """Name of the model that the walk was made for."""
    spec: WalkSpec
    positions: tuple[float, ...]
    wanted: frozenset[float]
    """Which of them to upload and tell of; if there are none, nothing is rendered."""
    batch_size: int | None
    """Frames that are rendered at once, as the walk has it; None of an older worker, which means BATCH_SIZE."""


class Batch(NamedTuple):
    """What came of an order."""

    keys: tuple[str, ...]
    """What the frame at each position shows, whether it was wanted or not (`spec.frame_key`)."""
    made: list[MadeFrame | FlaggedFrame]
    """Those that were wanted, by position."""
    warnings: list[str]
    """What visitors should know about how the model reads their prompts."""


def make(renderer: "Renderer", order: RenderRequest, hold: CancellationToken) -> Batch:
    """Render an order and upload what is wanted of it.

    Raises:
        whatever `hold` raises when the work should end.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays out of order.
    """
    spec = order.spec
    keys = tuple(frame_key(spec, position, renderer.revision) for position in order.positions)
    warnings = renderer.warnings(spec)
    if not order.wanted:
        return Batch(keys, [], warnings)
    started = time.monotonic()
    rendering = renderer.render(spec, list(order.positions), hold.checkpoint, batch_size=order.batch_size)
    hold.rendered, hold.to_record = len(order.positions), len(order.wanted)
    log.info("rendered", seconds=round(time.monotonic() - started, 3))

    def upload(position: float, key: str, picture: Picture, flag: Flag | None) -> MadeFrame | FlaggedFrame | None:
        if position not in order.wanted:
            return None
        if flag is not None:
            return FlaggedFrame(position, flag)
        name = bucket.frame_name(order.walk_id, order.secret, position)
        data = encoders.encode_png(picture, frame_caption(spec, order.model, position))
        stored = bucket.upload(name, data, "image/png", check=hold.checkpoint, confirm=hold.verify)
        return MadeFrame(position, stored, thumbnail(picture), key)

    uploads = hold.run_concurrently(upload, order.positions, keys, rendering.pictures, rendering.flags)
    return Batch(keys, [frame for frame in uploads if frame is not None], warnings)
