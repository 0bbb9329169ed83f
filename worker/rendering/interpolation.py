"""Frames between others: their latents are interpolated between those of keys, denoised frames of the same walk."""

from bisect import bisect
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import fsum, sqrt

import numpy as np
from numpy.typing import NDArray

from momalisa.domain import dense
from momalisa.domain.dense import Check, Error
from momalisa.errors import KeysLostError, ObjectCorruptError
from momalisa.queue.leases import Key
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry.logging import logger
from worker.cancellation import CancellationToken
from worker.media import encoders
from worker.media.encoders import Latents, Picture

log = logger(__name__)

InterpolatedLatents = NDArray[np.float32]
"""Latents of one picture, between those of others."""

CACHED = 64
"""Keys whose latents a process remembers: at most 2 MiB each, for 2048 × 2048 pixels in 16 channels."""

BLOCK = 4
"""Pixels along each side of the smallest part of a picture whose error is measured."""

_cache: OrderedDict[StoredObject, Latents] = OrderedDict()
"""The most recently used last."""


def read_keys(keys: Collection[Key], token: CancellationToken) -> dict[float, Latents]:
    """Return the latents of keys, by position, from their files in the bucket.

    Raises:
        Exception: whatever `token` raises if the work is cancelled.
        KeysLostError: if files are missing or damaged, or have no latents.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """

    def read(key: Key) -> Latents | None:
        try:
            return encoders.read_latents(bucket.read(key.stored, check=token.checkpoint))
        except ObjectCorruptError as error:
            log.warning("key missing or damaged", position=key.position, reason=str(error))
            return None

    found = {key.position: _cache[key.stored] for key in keys if key.stored in _cache}
    missing = [key for key in keys if key.position not in found]
    for key, latents in zip(missing, token.run_concurrently(read, missing), strict=True):
        if latents is not None:
            found[key.position] = latents
    if lost := {key.position for key in keys} - found.keys():
        raise KeysLostError(sorted(lost))
    for key in keys:
        _cache[key.stored] = found[key.position]
        _cache.move_to_end(key.stored)
    while len(_cache) > CACHED:
        _cache.popitem(last=False)
    return found


def interpolate(
    neighbours: Mapping[float, Sequence[float]], latents: Mapping[float, Latents]
) -> dict[float, InterpolatedLatents]:
    """Return the latents at positions between keys.

    They are computed in such a way that all processes get the same, whatever their processors.

    Args:
        neighbours: for each position, those of the keys that it lies between (`dense.neighbours`).
        latents: of the keys, by position.
    """

    @cache
    def distance(start: float, end: float) -> float:
        apart = latents[end].astype(np.float64) - latents[start]
        return sqrt(fsum(np.square(apart).ravel().tolist()))  # exact, where NumPy's sums depend on the processor

    found = {}
    for position, keys in neighbours.items():
        weights = dense.weights(position, keys, [distance(*ends) for ends in pairwise(keys)])
        total = np.zeros_like(latents[keys[0]], np.float32)
        for key, weight in zip(keys, weights, strict=True):
            total += np.float32(weight) * latents[key].astype(np.float32)
        found[position] = total
    return found


def difference(picture: Picture, exact: Picture) -> Error:
    """Return by how much a picture differs from the exact one, in levels of 255."""
    levels = np.abs(picture.astype(np.int16) - exact).mean(axis=2)
    height, width = (side // BLOCK for side in levels.shape)
    blocks = levels.reshape(height, BLOCK, width, BLOCK).mean(axis=(1, 3))
    return Error(mean=float(levels.mean()), block=float(blocks.max()))


def check(position: float, keys: Sequence[float], picture: Picture, exact: Picture) -> Check:
    """Return the check of the gap that a denoised frame was made in.

    Args:
        position: of the frame.
        keys: positions between which it was interpolated, too (`dense.neighbours`).
        picture: what interpolation made.
        exact: the denoised picture.
    """
    after = bisect(keys, position)
    error = difference(picture, exact)
    return Check(start=keys[after - 1], end=keys[after], mean=error.mean, block=error.block)
