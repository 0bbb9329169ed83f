"""Dense walks: frames between denoised ones, by interpolation of the latents that the decoder turns into pictures.

Between two neighbouring frames of a dense walk the latents move smoothly, so that a picture decoded from latents
between theirs differs little from the picture that the model would have denoised there, at the price of decoding
alone. How much it differs is measured: a denoised frame in a gap is compared with what interpolation over the gap
would have given, and each part of the gap differs less than that (`docs/decisions/0035-dense-walks.md`).
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from momalisa.domain import pacing
from momalisa.domain.path import leg


class Error(NamedTuple):
    """How much a picture differs from another, in levels of 255."""

    mean: float
    """Mean absolute difference."""
    block: float
    """The largest mean absolute difference of a block of 4 × 4 pixels."""


class Check(BaseModel):
    """What interpolation over a gap would have made of a frame that was denoised in it."""

    model_config = ConfigDict(frozen=True)

    start: float
    """Position of the last key before it, when it was planned."""
    end: float
    """Position of the first key after it, when it was planned."""
    mean: float
    block: float
    """As of `Error`."""


def neighbours(position: float, keys: Sequence[float], legs: int) -> tuple[float, ...]:
    """Return the positions between which a frame is interpolated: at most two on each side, of the same leg.

    Args:
        position: of the frame.
        keys: positions of frames with latents, in ascending order; for a closed walk, its first again at 1.
        legs: of the walk.

    Returns:
        In ascending order; empty if the frame does not lie between two keys of its leg.
    """
    number = leg(position, legs)[0]
    own = [key for key in keys if leg(key, legs)[0] == number or leg(key, legs) == (number + 1, 0.0)]
    after = bisect(own, position)
    if not 0 < after < len(own):
        return ()
    return tuple(own[max(after - 2, 0) : after + 2])


def weights(position: float, keys: Sequence[float], distances: Sequence[float]) -> tuple[float, ...]:
    """Return the weight of the latents of each key in those at a position between the keys; their sum is 1.

    They are those of a cubic Hermite spline whose slope at a key is that of the parabola through it and the keys on
    both sides (Catmull and Rom, 1974, for uneven spacing). Its parameter is not the position but the distance that
    the latents have covered, which a monotone cubic gives for each position: where they rest and then jump, a
    spline over positions overshoots.

    Args:
        position: of the frame.
        keys: what `neighbours` returns.
        distances: between the latents of each key and the next: Euclidean.
    """
    even = (pacing.BASE * sum(distances) or 1.0) / (keys[-1] - keys[0])
    gaps = [distance + even * (b - a) for distance, (a, b) in zip(distances, pairwise(keys), strict=True)]
    lengths = list(accumulate(gaps, initial=0.0))
    slopes = pacing.monotone_slopes(keys, lengths)
    after = bisect(keys, position)
    before = after - 1
    width = keys[after] - keys[before]
    length = pacing.hermite(
        (position - keys[before]) / width,
        width,
        (lengths[before], lengths[after]),
        (slopes[before], slopes[after]),
    )
    return _spline(length, lengths, after)


def _spline(at: float, knots: Sequence[float], after: int) -> tuple[float, ...]:
    """Return the weight of the value at each knot in that at a place before the knot `after`."""
    width = knots[after] - knots[after - 1]
    t = (at - knots[after - 1]) / width
    found = [0.0] * len(knots)
    found[after - 1] += (1 + 2 * t) * (1 - t) ** 2
    found[after] += t**2 * (3 - 2 * t)
    for knot, slope in ((after - 1, t * (1 - t) ** 2 * width), (after, -(t**2) * (1 - t) * width)):
        first = min(max(knot - 1, 0), max(len(knots) - 3, 0))
        for index, share in enumerate(_derivative(knots[knot], knots[first : first + 3])):
            found[first + index] += slope * share
    return tuple(found)


def _derivative(at: float, keys: Sequence[float]) -> list[float]:
    """Return the weight of each value in the derivative, at a point, of the polynomial through two or three."""
    if len(keys) == 2:  # noqa: PLR2004
        width = keys[1] - keys[0]
        return [-1 / width, 1 / width]
    a, b, c = keys
    return [
        (2 * at - b - c) / ((a - b) * (a - c)),
        (2 * at - a - c) / ((b - a) * (b - c)),
        (2 * at - a - b) / ((c - a) * (c - b)),
    ]
