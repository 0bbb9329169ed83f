"""From positions on a walk to frames in the bucket, rendered as one batch.

This runs where the model is: in a render worker, or behind an endpoint (`worker/vertex/server.py`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import numpy as np

from momalisa.domain import dense
from momalisa.domain.content import content_hashes, interpolated_hashes
from momalisa.domain.dense import Check
from momalisa.domain.passes import is_dense
from momalisa.domain.pins import MadeWith
from momalisa.domain.spec import WalkSpec
from momalisa.queue.leases import Key
from momalisa.queue.results import FlaggedFrame, UploadedFrame
from momalisa.storage import bucket
from momalisa.telemetry.logging import logger
from worker.cancellation import CancellationToken
from worker.media import encoders
from worker.media.metadata import frame_caption
from worker.media.thumbnail import thumbnail
from worker.rendering.interpolation import InterpolatedLatents, check, interpolate, read_keys

if TYPE_CHECKING:
    from worker.rendering.pipeline import Renderer, Rendering

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
    """Size to which the batch is padded: that of the chunk. Frames are interpolated in several batches of it."""
    interpolated: bool = False
    """Whether the frames are interpolated between keys. If not, and they lie between keys, it is measured how good
    that would have been."""
    keys: tuple[Key, ...] = ()
    """All denoised frames of earlier passes, with latents in their files."""


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
    interpolated: bool
    """Whether the frames are interpolated; they may be denoised although the request says so."""


def render_batch(renderer: "Renderer", request: RenderRequest, token: CancellationToken) -> Batch:
    """Render the frames of a request as one batch, and upload those that it names.

    Frames to interpolate are denoised instead if the model of this process is not dense, or if one of them has no
    keys with latents around it; the result says so.

    Raises:
        KeysLostError: if files of keys cannot be read.
        Exception: whatever `token` raises if the work is cancelled.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    spec, positions = request.spec, request.positions
    around = _keys_around(request) if renderer.dense and (request.interpolated or is_dense(spec)) else {}
    interpolated = request.interpolated and len(around) == len(positions)

    def hashes(batch_size: int) -> tuple[str, ...]:
        made_with = renderer.made_with.model_dump_json()
        if interpolated:
            neighbours = {at: [(key.position, key.content_hash) for key in keys] for at, keys in around.items()}
            return interpolated_hashes(neighbours, made_with, batch_size)
        return content_hashes(spec, positions, made_with, batch_size)

    def result(batch_size: int, made: list[UploadedFrame | FlaggedFrame]) -> Batch:
        warnings, made_with = renderer.warnings(spec), renderer.made_with
        return Batch(hashes(batch_size), made, warnings, made_with, batch_size, interpolated)

    if not request.to_upload:
        return result(renderer.batch_that_fits(spec, request.batch_size, decoded=interpolated), [])
    started = time.monotonic()
    between = _interpolated(around, token) if around else {}
    decoded = _decode(renderer, request, between, token) if between else None
    if interpolated and decoded:
        rendering, checks = decoded, dict[float, Check]()
    else:
        rendering = renderer.render(spec, positions, token.checkpoint, batch_size=request.batch_size)
        checks = _checks(request, rendering, around, decoded) if decoded else {}
    token.rendered, token.to_record = len(positions), len(request.to_upload)
    log.info("batch rendered", seconds=round(time.monotonic() - started, 3), interpolated=interpolated)
    latents = rendering.latents if renderer.dense else None

    def upload(index: int, content_hash: str) -> UploadedFrame | FlaggedFrame | None:
        position, picture, flag = positions[index], rendering.pictures[index], rendering.flags[index]
        if position not in request.to_upload:
            return None
        if flag is not None:
            return FlaggedFrame(position, flag)
        caption = frame_caption(spec, request.model, position, interpolated=interpolated)
        data = encoders.encode_png(picture, caption, None if latents is None else latents[index])
        name = bucket.frame_name(request.walk_id, request.secret, position)
        stored = bucket.upload(name, data, "image/png", check=token.checkpoint, confirm=token.verify)
        return UploadedFrame(
            position,
            stored,
            thumbnail(picture),
            content_hash,
            interpolated=interpolated,
            latents=latents is not None,
            check=checks.get(position),
        )

    uploads = token.run_concurrently(upload, range(len(positions)), hashes(rendering.batch_size))
    return result(rendering.batch_size, [frame for frame in uploads if frame is not None])


def _keys_around(request: RenderRequest) -> dict[float, list[Key]]:
    """Return for each position that lies between keys those that it is interpolated from."""
    keys = {key.position: key for key in request.keys}
    found = {at: dense.neighbours(at, sorted(keys), request.spec.legs) for at in request.positions}
    return {at: [keys[each] for each in places] for at, places in found.items() if places}


def _interpolated(
    around: Mapping[float, Sequence[Key]], token: CancellationToken
) -> dict[float, InterpolatedLatents]:
    """Return latents between keys, by position."""
    latents = read_keys({key for keys in around.values() for key in keys}, token)
    return interpolate({at: [key.position for key in keys] for at, keys in around.items()}, latents)


def _decode(
    renderer: "Renderer",
    request: RenderRequest,
    latents: Mapping[float, InterpolatedLatents],
    token: CancellationToken,
) -> "Rendering":
    stacked = np.stack(list(latents.values()))
    return renderer.decode(request.spec, stacked, token.checkpoint, batch_size=request.batch_size)


def _checks(
    request: RenderRequest,
    exact: "Rendering",
    around: Mapping[float, Sequence[Key]],
    interpolated: "Rendering",
) -> dict[float, Check]:
    """Return for each position between keys how much an interpolated frame there differs from the denoised one.

    A frame that was flagged when it was interpolated tells nothing: its picture may be black.
    """
    denoised = dict(zip(request.positions, exact.pictures, strict=True))
    decoded = zip(around.items(), interpolated.pictures, interpolated.flags, strict=True)
    return {
        position: check(position, [key.position for key in keys], picture, denoised[position])
        for (position, keys), picture, flag in decoded
        if flag is None
    }
