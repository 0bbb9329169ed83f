"""The path of a walk: where its frames lie, and in which order they are rendered and shown.

A walk passes its stops; leg k leads from stop k to stop k + 1. Positions are in [0, 1], and stop k is at k / legs.
A closed walk has one stop more than it has prompts: it ends at the first one, and no frame lies at 1, since the one
at 0 is the same picture.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import acos, asin, cos, pi, sin, sqrt
from typing import Literal

Easing = Literal["linear", "ease-in", "ease-out", "ease-in-out"]
"""The speed on a leg: constant, or slow at its start, at its end, or at both."""

Loop = Literal["none", "pingpong", "closed"]
"""What follows the last stop: the first frame again, all frames in reverse, or a leg back to the first stop."""

_EASINGS: dict[Easing, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "linear": (lambda time: time, lambda progress: progress),
    "ease-in": (lambda time: 1 - cos(pi / 2 * time), lambda progress: acos(1 - progress) * 2 / pi),
    "ease-out": (lambda time: sin(pi / 2 * time), lambda progress: asin(progress) * 2 / pi),
    "ease-in-out": (lambda time: (1 - cos(pi * time)) / 2, lambda progress: acos(1 - 2 * progress) / pi),
}
"""Progress at a time and the time of a progress, all in [0, 1]. Source: Penner's sine easings."""


@dataclass(frozen=True)
class Timing:
    """The speed of a walk along its path.

    With weights of 1, time equals length; where the weight is 2, the same length takes twice the time. On a leg the
    weight changes linearly from that of one stop to that of the next.
    """

    weights: tuple[float, ...]
    """One for each stop, above 0; a closed walk repeats that of its first stop at the end."""
    easing: Easing = "linear"
    closed: bool = False

    @property
    def legs(self) -> int:
        """Number of legs."""
        return len(self.weights) - 1

    def weight(self, leg: int) -> float:
        """Return the time of a leg divided by its length."""
        return (self.weights[leg] + self.weights[leg + 1]) / 2

    def time(self, leg: int, progress: float) -> float:
        """Return the time on a leg at a progress, both as shares in [0, 1]."""
        start, end = self._ends(leg)
        weighed = (start * progress + (end - start) * progress**2 / 2) / ((start + end) / 2)
        return _EASINGS[self.easing][1](min(max(weighed, 0.0), 1.0))

    def progress(self, leg: int, time: float) -> float:
        """Return the progress on a leg at a time, both as shares in [0, 1]: the inverse of `time`."""
        start, end = self._ends(leg)
        eased = _EASINGS[self.easing][0](time)
        if not eased:
            return 0.0
        done = eased * (start + end) / (start + sqrt(start**2 + (end**2 - start**2) * eased))
        return min(max(done, 0.0), 1.0)

    def _ends(self, leg: int) -> tuple[float, float]:
        """Return the weights at both ends of a leg, scaled to a maximum of 1, so that squares do not overflow."""
        start, end = self.weights[leg : leg + 2]
        return start / max(start, end), end / max(start, end)


def positions(frames: int, timing: Timing, leg_frames: Sequence[int] | None = None) -> list[float]:
    """Return the positions of `frames` frames, in ascending order, with legs of equal length.

    Every stop has a frame. The other frames are apportioned among the legs by their times, or as `leg_frames` says,
    and on each leg are equally far apart in time.

    Raises:
        ValueError: if there are fewer than two stops, or fewer frames than stops.
    """
    stops = timing.legs + (not timing.closed)
    if timing.legs < 1:
        raise ValueError(f"a walk has at least 2 stops, not {len(timing.weights)}")
    if frames < stops:
        raise ValueError(f"a walk over {stops} stops has at least {stops} frames, not {frames}")
    steps = leg_frames or apportion(
        [timing.weight(leg) for leg in range(timing.legs)], frames - (not timing.closed)
    )
    found = [
        (leg + (timing.progress(leg, step / count) if step else 0.0)) / timing.legs
        for leg, count in enumerate(steps)
        for step in range(count)
    ]
    return found if timing.closed else [*found, 1.0]


def apportion(sizes: Sequence[float], total: int, most: Sequence[int] | None = None) -> list[int]:
    """Divide items into `total` parts in all, each item into at least one, so that the largest part is smallest.

    Each further part goes to the item whose parts are then largest, the first one if there are several (D'Hondt).

    Args:
        sizes: of the items, 0 or more.
        total: number of parts in all.
        most: maximum number of parts of each item; None means no maximum.

    Returns:
        The number of parts of each item.

    Raises:
        ValueError: if `total` is less than the number of items, or more than `most` allows.
    """
    parts = [1] * len(sizes)
    limits = [total] * len(sizes) if most is None else most
    if total < len(sizes) or total > sum(limits):
        raise ValueError(f"{len(sizes)} items cannot be divided into {total} parts")
    largest = [(-size, index) for index, size in enumerate(sizes) if limits[index] > 1]
    heapq.heapify(largest)
    for _ in range(total - len(sizes)):
        _, index = largest[0]
        parts[index] += 1
        if parts[index] < limits[index]:
            heapq.heapreplace(largest, (-sizes[index] / parts[index], index))
        else:
            heapq.heappop(largest)
    return parts


def chunks(frames: int, size: int) -> list[list[int]]:
    """Divide the frames 0 … frames - 1 of a walk into chunks of at most `size`, coarse to fine.

    The first chunk spans the whole walk, so that a preview can play after one batch. Each later chunk takes every
    n-th of the other frames, by offset in bit-reversed order (van der Corput), so that gaps are filled evenly.
    Every frame is in exactly one chunk.

    Raises:
        ValueError: if `frames` or `size` is less than one.
    """
    if frames < 1 or size < 1:
        raise ValueError(f"frames and size are at least 1, not {frames} and {size}")
    if frames <= size:
        return [list(range(frames))]
    first = linspace_indices(frames, size)
    rest = sorted(set(range(frames)) - set(first))
    count = -(-len(rest) // size)
    return [first, *(rest[offset::count] for offset in _bit_reversed(count))]


def linspace_indices(total: int, count: int) -> list[int]:
    """Return `count` of the indices 0 … total - 1, evenly spaced up to rounding, with both ends."""
    if count == 1:
        return [0]
    return [round(step * (total - 1) / (count - 1)) for step in range(count)]


def leg(position: float, legs: int) -> tuple[int, float]:
    """Return the leg on which a position lies, and its t on that leg, in [0, 1].

    A stop belongs to the leg that starts there, and the last one to the last leg.
    """
    number = min(int(position * legs), legs - 1)
    t = position * legs - number
    # A joint such as 2/3 · 3 must be the stop itself, not a rounding error before it.
    nearest = round(t)
    t = float(nearest) if abs(t - nearest) < 1e-9 else t  # noqa: PLR2004
    return (number + 1, 0.0) if t == 1 and number < legs - 1 else (number, t)


def sequence(positions: Sequence[float], legs: int, *, hold: int, loop: Loop) -> list[int]:
    """Return the indices of the frames that the animation shows, in order, before it repeats.

    Args:
        positions: of the frames, in ascending order.
        legs: number of legs.
        hold: number of extra frames for which each stop is shown.
        loop: "pingpong" appends the frames in reverse without both ends, so that none is shown twice in a row.
    """
    there = range(len(positions))
    order = chain(there, there[-2:0:-1]) if loop == "pingpong" else there
    stops = {index for index in there if leg(positions[index], legs)[1] in {0, 1}}
    return [index for index in order for _ in range(1 + hold if index in stops else 1)]


def seed_progress(position: float, *, closed: bool) -> float:
    """Return how far the noise at a position has changed from the first seed to the second, in [0, 1].

    A closed walk returns to its start, so that is 1 half-way and 0 at both ends.
    """
    return 1 - abs(1 - 2 * position) if closed else position


def _bit_reversed(count: int) -> list[int]:
    bits = max(count - 1, 1).bit_length()
    reversed_ = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in reversed_ if number < count]
