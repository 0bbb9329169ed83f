"""Even pacing: which frames of a walk are rendered first, and which once it is known where the picture moves.

Equal steps in position are not equal steps to the eye: the picture rests for many frames, then jumps. So a walk is
rendered in passes. The first is a probe in equal steps; each later one puts its frames where the pictures on both
sides differ most, as far as that is known by then. All frames stay. Everything here is a pure function of what was
recorded, so that whoever plans a pass plans the same one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, dist, floor

from momalisa.domain.path import Timing, apportion, leg, positions
from momalisa.domain.spec import WalkSpec

GRID = 4096
"""Places on a leg at which a frame can lie: the least step is 1/4096 of it."""

BASE = 0.02
"""The share of a leg's length that is spread evenly over it, so that no part of it is taken for nothing."""


def plan_first_pass(spec: WalkSpec, size: int, kept: Collection[float] = ()) -> list[float]:
    """Return the positions of the first pass, in ascending order.

    With linear pacing that is every frame; otherwise it is a probe in equal steps, of about a third of the frames.

    Args:
        spec: the walk.
        size: frames in a batch.
        kept: positions of frames that are there already, and stay.
    """
    course = spec.timing
    if spec.pacing == "linear":
        wanted = positions(spec.frames, course)
        count = spec.frames
    else:
        count = max(_probe(spec.frames, course, size), min(len(kept), spec.frames))
        wanted = positions(count, Timing(weights=(1.0,) * len(course.weights), closed=course.closed))
        wanted = [_snapped(position, course.legs) for position in wanted]
    if set(kept) <= set(wanted):
        return wanted
    there = sorted({*kept, *positions(course.legs + (not course.closed), course)})
    ends = [*there, 1.0] if course.closed else there
    new = subdivide(ends, [b - a for a, b in pairwise(ends)], max(count - len(there), 0), course)
    return sorted([*there, *new])


def plan_next_pass(spec: WalkSpec, recorded: Mapping[float, bytes | None], size: int) -> list[float]:
    """Return the positions of the next pass, in ascending order; none if every frame is there.

    Args:
        spec: the walk.
        recorded: the signature of each frame that is there, by position; every stop is among them. None is one
            that nothing is known of: it is taken to look like the one before.
        size: frames in a batch.
    """
    count = _next(len(recorded), spec.frames, size) - len(recorded)
    if not count:
        return []
    there = sorted(recorded)
    signatures: list[bytes] = []
    for position in there:
        signatures.append(recorded[position] or (signatures[-1] if signatures else b""))
    if spec.timing.closed:
        there, signatures = [*there, 1.0], [*signatures, signatures[0]]
    if spec.pacing == "linear":
        distances = [b - a for a, b in pairwise(there)]
    else:
        distances = [distance(a, b) for a, b in pairwise(signatures)]
    return subdivide(there, distances, count, spec.timing)


def distance(one: bytes, other: bytes) -> float:
    """Return how far apart two pictures are to the eye, by their signatures: the length of the difference."""
    return dist(one, other) if one and other else 0.0


def subdivide(there: Sequence[float], distances: Sequence[float], count: int, timing: Timing) -> list[float]:
    """Return `count` positions for new frames, in ascending order, so that the longest step is as short as can be.

    How long a step takes is the distance between its ends, bent by the course. A gap is cut into steps that take
    equally long, if the picture's speed changes steadily from gap to gap.

    Args:
        there: positions of the frames that are there, in ascending order, with every stop and both ends.
        distances: between each frame and the next; as many as there are gaps.
        count: of new frames.
        course: how the time of the walk is spread over its way.
    """
    legs: list[list[float]] = [[] for _ in range(timing.legs)]
    for position in there:
        number, along = leg(position, timing.legs)
        legs[number].append(along)
    even = BASE * (sum(distances) / timing.legs or 1.0)
    gaps: list[_Gap] = []
    for number, found in enumerate(legs):
        alongs = found if found[-1] == 1 else [*found, 1.0]
        steps = [distances[len(gaps) + index] + even * (b - a) for index, (a, b) in enumerate(pairwise(alongs))]
        gaps += _gaps(number, alongs, steps, timing)
    parts = apportion([gap.duration for gap in gaps], len(gaps) + count, [gap.room for gap in gaps])
    return [
        (gap.leg + place / GRID) / timing.legs
        for gap, cut in zip(gaps, parts, strict=True)
        for place in gap.places(cut, timing)
    ]


@dataclass(frozen=True)
class _Gap:
    """What lies between two frames that are neighbours by now."""

    leg: int
    alongs: tuple[float, float]
    """Where it begins and ends on its leg."""
    progress: tuple[float, float]
    """How much of the leg's way is done there."""
    times: tuple[float, float]
    """How much of the leg's time has passed there."""
    slopes: tuple[float, float]
    """How far along the leg a bit of its way leads there."""
    duration: float
    """How long it takes, in the unit of distances."""

    @property
    def lowest(self) -> int:
        """The first place within it."""
        return floor(self.alongs[0] * GRID) + 1

    @property
    def highest(self) -> int:
        """The last place within it."""
        return ceil(self.alongs[1] * GRID) - 1

    @property
    def room(self) -> int:
        """The number of steps into which it can be cut."""
        return max(self.highest - self.lowest + 2, 1)

    def places(self, cut: int, timing: Timing) -> Iterator[int]:
        """Give the places that cut it into so many steps of equal time."""
        least = self.lowest
        for step in range(1, cut):
            time = self.times[0] + (self.times[1] - self.times[0]) * step / cut
            along = self._along(timing.progress(self.leg, time))
            place = min(max(round(along * GRID), least), self.highest - (cut - 1 - step))
            yield place
            least = place + 1

    def _along(self, progress: float) -> float:
        """Return where so much of the leg's way is done: on the cubic that meets both ends at their slopes."""
        whole = self.progress[1] - self.progress[0]
        part = (progress - self.progress[0]) / whole
        bend = part * (1 - part) * whole
        return (
            self.alongs[0]
            + (self.alongs[1] - self.alongs[0]) * part**2 * (3 - 2 * part)
            + bend * ((1 - part) * self.slopes[0] - part * self.slopes[1])
        )


def _gaps(number: int, alongs: Sequence[float], distances: Sequence[float], timing: Timing) -> list[_Gap]:
    """Return the gaps of a leg, by where its frames lie along it and how far apart they are, all above 0."""
    done = list(accumulate(distances, initial=0.0))
    progress = [length / done[-1] for length in done]
    times = [timing.time(number, part) for part in progress]
    whole = timing.weight(number) * done[-1]
    columns = (pairwise(values) for values in (alongs, progress, times, _slopes(progress, alongs)))
    return [
        _Gap(number, ends, parts, span, slopes, whole * (span[1] - span[0]))
        for ends, parts, span, slopes in zip(*columns, strict=True)
    ]


def _slopes(progress: Sequence[float], alongs: Sequence[float]) -> list[float]:
    """Return how far along a leg a bit of its way leads, at each of its frames.

    That is between what it is before the frame and after it, so that the cubics never turn back: the weighted
    harmonic mean of both. Source: Fritsch and Butland, "A Method for Constructing Local Monotone Piecewise Cubic
    Interpolants", 1984.
    """
    widths = [b - a for a, b in pairwise(progress)]
    secants = [(b - a) / width for (a, b), width in zip(pairwise(alongs), widths, strict=True)]
    inner = [
        3 * (w + v) / ((2 * v + w) / one + (v + 2 * w) / other)
        for (w, v), (one, other) in zip(pairwise(widths), pairwise(secants), strict=True)
    ]
    return [secants[0], *inner, secants[-1]]


def _probe(frames: int, timing: Timing, size: int) -> int:
    """Return how many frames the first pass has: a third, in whole batches; at least one within each leg."""
    least = 2 * timing.legs + (not timing.closed)
    whole = ceil(frames / 3 / size) * size
    return min(max(least, whole if whole < frames else ceil(frames / 2)), frames)


def _next(done: int, frames: int, size: int) -> int:
    """Return how many frames are there after the next pass: twice as many, the last of them in two halves.

    Both halves are whole batches, or all comes at once.
    """
    if 2 * done + size <= frames:
        return 2 * done
    half = done + ceil((frames - done) / 2 / size) * size
    return half if 4 * done < 3 * frames and half + size <= frames else frames


def _snapped(position: float, legs: int) -> float:
    """Return the place on the grid that is next to a position."""
    number, along = leg(position, legs)
    return (number + round(along * GRID) / GRID) / legs
