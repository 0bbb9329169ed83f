"""The pure maths of a walk: where its frames lie, in which order they are rendered and shown. No I/O.

A walk leads over stops; leg k leads from stop k to stop k + 1. A position lies in [0, 1], and stop k at k / legs.
A closed walk has one stop more than it has prompts: it ends where it begins, and no frame lies at 1, since the one
at 0 is the same picture.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import acos, asin, cos, pi, sin, sqrt
from typing import Literal

Easing = Literal["linear", "ease-in", "ease-out", "ease-in-out"]
"""How a leg is walked: at one speed, or slowly where it begins, where it ends, or both."""

Loop = Literal["none", "pingpong", "closed"]
"""What follows the last stop: the first frame again, the way back, or a leg to the first stop."""

_EASINGS: dict[Easing, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "linear": (lambda time: time, lambda progress: progress),
    "ease-in": (lambda time: 1 - cos(pi / 2 * time), lambda progress: acos(1 - progress) * 2 / pi),
    "ease-out": (lambda time: sin(pi / 2 * time), lambda progress: asin(progress) * 2 / pi),
    "ease-in-out": (lambda time: (1 - cos(pi * time)) / 2, lambda progress: acos(1 - 2 * progress) / pi),
}
"""Progress at a time and the time of a progress, all in [0, 1]. Source: Penner's sine easings."""


@dataclass(frozen=True)
class Timing:
    """How the time of a walk is spread over its way.

    Time is counted so that a walk of weights 1 takes as long as its way is; where the way has weight 2, it takes
    twice as long. On a leg the weight changes steadily from that of one stop to that of the next.
    """

    weights: tuple[float, ...]
    """One for each stop, above 0; a closed walk has that of its first stop at the end again."""
    easing: Easing = "linear"
    closed: bool = False

    @property
    def legs(self) -> int:
        """Number of legs."""
        return len(self.weights) - 1

    def weight(self, leg: int) -> float:
        """Return how long a leg takes for its length."""
        return (self.weights[leg] + self.weights[leg + 1]) / 2

    def time(self, leg: int, progress: float) -> float:
        """Return how much of a leg's time has passed when so much of its way is done, both in [0, 1]."""
        start, end = self._ends(leg)
        weighed = (start * progress + (end - start) * progress**2 / 2) / ((start + end) / 2)
        return _EASINGS[self.easing][1](min(max(weighed, 0.0), 1.0))

    def progress(self, leg: int, time: float) -> float:
        """Return how much of a leg's way is done when so much of its time has passed: the inverse of `time`."""
        start, end = self._ends(leg)
        eased = _EASINGS[self.easing][0](time)
        if not eased:
            return 0.0
        done = eased * (start + end) / (start + sqrt(start**2 + (end**2 - start**2) * eased))
        return min(max(done, 0.0), 1.0)

    def _ends(self, leg: int) -> tuple[float, float]:
        """Return the weights at both ends of a leg, the larger one as 1: their squares are numbers, too."""
        start, end = self.weights[leg : leg + 2]
        return start / max(start, end), end / max(start, end)


def positions(frames: int, timing: Timing) -> list[float]:
    """Return the positions of `frames` frames, in ascending order, if all legs are equally long.

    Every stop has a frame of its own, exactly; the others are shared out between the legs by the time that those
    take, as evenly as whole frames allow, at equal intervals of time on each leg.

    Raises:
        ValueError: if there are fewer than two stops, or fewer frames than stops.
    """
    stops = timing.legs + (not timing.closed)
    if timing.legs < 1:
        raise ValueError(f"a walk has at least 2 stops, not {len(timing.weights)}")
    if frames < stops:
        raise ValueError(f"a walk over {stops} stops has at least {stops} frames, not {frames}")
    steps = apportion([timing.weight(leg) for leg in range(timing.legs)], frames - (not timing.closed))
    found = [
        (leg + (timing.progress(leg, step / count) if step else 0.0)) / timing.legs
        for leg, count in enumerate(steps)
        for step in range(count)
    ]
    return found if timing.closed else [*found, 1.0]


def apportion(sizes: Sequence[float], total: int, most: Sequence[int] | None = None) -> list[int]:
    """Cut things of some sizes into `total` parts, each into one at least, so that the largest part is smallest.

    Each cut goes to the thing whose parts are largest by then (D'Hondt's rule), to the first of equals.

    Args:
        sizes: of the things, 0 or more.
        total: parts in all.
        most: parts that each thing can be cut into; None means any number.

    Raises:
        ValueError: if there are fewer parts than things, or more than they can be cut into.
    """
    parts = [1] * len(sizes)
    limits = [total] * len(sizes) if most is None else most
    if total < len(sizes) or total > sum(limits):
        raise ValueError(f"{len(sizes)} things cannot be cut into {total} parts")
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
    """Share out the frames 0 … frames - 1 of a walk into chunks of at most `size`, coarse to fine.

    The first chunk spans the walk from end to end, so that a preview of all of it plays as soon as one batch is
    done. Each later chunk again takes frames from everywhere, and they come in bit-reversed order (van der
    Corput), so that the gaps that are left are filled evenly. Every frame is in exactly one chunk.

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
    """Return `count` of the indices 0 … total - 1 as evenly as whole numbers allow, both ends among them."""
    if count == 1:
        return [0]
    return [round(step * (total - 1) / (count - 1)) for step in range(count)]


def leg(position: float, legs: int) -> tuple[int, float]:
    """Return on which leg of a walk a position lies, and how far along it in [0, 1].

    A stop belongs to the leg that it starts, the last one to the last leg.
    """
    number = min(int(position * legs), legs - 1)
    along = position * legs - number
    # A joint such as 2/3 · 3 must be the stop itself, not a rounding error before it.
    nearest = round(along)
    along = float(nearest) if abs(along - nearest) < 1e-9 else along  # noqa: PLR2004
    return (number + 1, 0.0) if along == 1 and number < legs - 1 else (number, along)


def sequence(positions: Sequence[float], legs: int, *, hold: int, loop: Loop) -> list[int]:
    """Return the index of each frame that the animation shows, in order; the animation repeats it for ever.

    Args:
        positions: of the frames, in ascending order.
        legs: number of legs.
        hold: how many times more than once each stop is shown.
        loop: on the way back of "pingpong" neither end is shown again, so that nothing comes twice in a row.
    """
    there = range(len(positions))
    order = chain(there, there[-2:0:-1]) if loop == "pingpong" else there
    stops = {index for index in there if leg(positions[index], legs)[1] in {0, 1}}
    return [index for index in order for _ in range(1 + hold if index in stops else 1)]


def path_progress(position: float, *, closed: bool) -> float:
    """Return how far a walk has come from what it starts with to what it ends with, in [0, 1].

    A closed walk is back in the end: it is furthest half-way.
    """
    return 1 - abs(1 - 2 * position) if closed else position


def _bit_reversed(count: int) -> list[int]:
    bits = max(count - 1, 1).bit_length()
    reversed_ = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in reversed_ if number < count]
