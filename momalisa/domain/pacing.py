"""Even pacing: where the frames of a walk lie, so that neighbouring pictures differ equally.

Equal steps in position are not equal steps to the eye: the picture rests for many frames, then jumps. So a walk is
rendered in passes. The first is a probe in equal steps; each later one puts its frames into the gaps where the
pictures on both sides differ most. All frames stay. Everything here is a pure function of what was recorded, so
that any process plans the same pass.

A leg with five frames after a pass, and the distances between neighbouring pictures:

    t         0.0          0.25          0.5          0.75          1.0
    frames    o------------o-------------o------------o-------------o
    distance        2             20            16          2
    progress  0.0          0.05          0.55         0.95          1.0

Progress is the sum of the distances so far, as a share of the leg's. A gap is cut at times that are equally far
apart. For each of them, the timing of the walk (weights, easing) gives the progress to reach, and a monotone cubic
through the frames' (progress, t) gives the t at which it is reached:

    t
    1.0  |                        o      The new frames (x) are equally far apart in progress, so they lie close
    0.75 |                   x o         together in t where the curve is flat: there the picture changes fast.
    0.5  |            o x x
    0.25 | o x x x
    0.0  o
         +-------------------------
         0          progress      1
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, dist, floor

from momalisa.domain.path import Timing, apportion, chunks, leg, positions
from momalisa.domain.pins import Batch
from momalisa.domain.spec import WalkSpec

GRID = 4096
"""Grid steps per leg: each frame lies at a multiple of 1/4096 of its leg."""

BASE = 0.02
"""Share of a leg's length that is spread evenly over it, so that a gap between equal pictures has a length too."""


def plan_first_pass(
    spec: WalkSpec, size: int, kept: Collection[float] = (), most: int | None = None
) -> list[float]:
    """Return the positions of the first pass, in ascending order.

    With linear pacing that is every frame; otherwise it is a probe in equal steps, of about a third of the frames.

    Args:
        spec: the walk.
        size: frames in a batch.
        kept: positions of existing frames. With even pacing they become part of the walk; with linear pacing they
            do so only where a frame lies anyway.
        most: maximum number of frames of a probe, apart from those that it needs and existing ones.
    """
    timing = spec.timing
    if spec.pacing == "linear":
        return positions(spec.frames, timing, spec.leg_frames)
    count = max(_probe_frames(spec.frames, timing, size, most), min(len(kept), spec.frames))
    steps = spec.leg_frames and apportion(spec.leg_frames, count - (not timing.closed), spec.leg_frames)
    wanted = positions(count, Timing(weights=(1.0,) * len(timing.weights), closed=timing.closed), steps)
    wanted = [_snapped(position, timing.legs) for position in wanted]
    if set(kept) <= set(wanted):
        return wanted
    known = sorted({*kept, *positions(timing.legs + (not timing.closed), timing)})
    ends = [*known, 1.0] if timing.closed else known
    new = subdivide(ends, [b - a for a, b in pairwise(ends)], max(count - len(known), 0), timing, spec.leg_frames)
    return sorted([*known, *new])


def plan_next_pass(spec: WalkSpec, recorded: Mapping[float, bytes | None], size: int) -> list[float]:
    """Return the positions of the next pass, in ascending order; empty if the walk has all its frames.

    Args:
        spec: the walk.
        recorded: the thumbnail of each frame, by position; every stop has one. A flagged frame has None, and counts
            as equal to the one before it.
        size: frames in a batch.
    """
    count = _frames_after_next_pass(len(recorded), spec.frames, size) - len(recorded)
    if not count:
        return []
    known = sorted(recorded)
    thumbnails: list[bytes] = []
    for position in known:
        thumbnails.append(recorded[position] or (thumbnails[-1] if thumbnails else b""))
    if spec.timing.closed:
        known, thumbnails = [*known, 1.0], [*thumbnails, thumbnails[0]]
    distances = [distance(a, b) for a, b in pairwise(thumbnails)]
    return subdivide(known, distances, count, spec.timing, spec.leg_frames)


def batches(positions: Sequence[float], size: int) -> list[Batch]:
    """Return the frames of a pass as batches of at most `size`, coarse to fine.

    Args:
        positions: of the frames, in ascending order.
        size: frames in a batch; shorter ones are padded.
    """
    orders = chunks(len(positions), size) if positions else []
    return [Batch(size=size, positions=[positions[index] for index in order]) for order in orders]


def distance(one: bytes, other: bytes) -> float:
    """Return the distance of two pictures: the Euclidean distance of their thumbnails; 0 if one is unknown."""
    return dist(one, other) if one and other else 0.0


def subdivide(
    known: Sequence[float],
    distances: Sequence[float],
    count: int,
    timing: Timing,
    leg_frames: Sequence[int] | None = None,
) -> list[float]:
    """Return the positions of `count` new frames, in ascending order, that make the longest step shortest.

    Each gap between two known frames is cut into steps of equal time. The duration of a gap is the distance of its
    pictures, weighted by the timing of the walk.

    Args:
        known: positions of the known frames, in ascending order, with every stop and both ends.
        distances: between each known frame and the next.
        count: number of new frames.
        timing: of the walk.
        leg_frames: the frames that each leg will have in the end; None if its gaps decide that.
    """
    legs: list[list[float]] = [[] for _ in range(timing.legs)]
    for position in known:
        number, t = leg(position, timing.legs)
        legs[number].append(t)
    even = BASE * (sum(distances) / timing.legs or 1.0)
    gaps: list[_Gap] = []
    for number, found in enumerate(legs):
        ts = found if found[-1] == 1 else [*found, 1.0]
        lengths = [distances[len(gaps) + index] + even * (b - a) for index, (a, b) in enumerate(pairwise(ts))]
        gaps += _gaps(number, ts, lengths, timing)
    if leg_frames is None:
        parts = _parts(gaps, count)
    else:
        of_legs = [[gap for gap in gaps if gap.leg == number] for number in range(timing.legs)]
        left = [frames - len(there) for frames, there in zip(leg_frames, of_legs, strict=True)]
        parts = [
            part for there, new in zip(of_legs, _shares(left, count), strict=True) for part in _parts(there, new)
        ]
    return [
        (gap.leg + point / GRID) / timing.legs
        for gap, steps in zip(gaps, parts, strict=True)
        for point in gap.points(steps, timing)
    ]


def _parts(gaps: Sequence["_Gap"], count: int) -> list[int]:
    """Return into how many steps gaps are cut by `count` new frames."""
    return apportion([gap.duration for gap in gaps], len(gaps) + count, [gap.capacity for gap in gaps])


def _shares(left: Sequence[int], count: int) -> list[int]:
    """Divide `count` new frames among legs in proportion to the frames that are left to place there."""
    most = [each + 1 for each in left]  # `apportion` gives each leg at least 1
    return [part - 1 for part in apportion(left, len(left) + count, most)]


@dataclass(frozen=True)
class _Knot:
    """A known frame of a leg, as a knot of the cubics."""

    t: float
    """Where it lies on its leg, in [0, 1]."""
    progress: float
    """Length of the leg up to there, as a share of all of it."""
    time: float
    """Time of the leg up to there, as a share of all of it."""
    slope: float
    """Derivative of t by progress."""


@dataclass(frozen=True)
class _Gap:
    """The gap between two neighbouring known frames of a leg."""

    leg: int
    start: _Knot
    end: _Knot
    duration: float
    """Its time, in the unit of distances."""

    @property
    def lowest(self) -> int:
        """The first grid point inside it."""
        return floor(self.start.t * GRID) + 1

    @property
    def highest(self) -> int:
        """The last grid point inside it."""
        return ceil(self.end.t * GRID) - 1

    @property
    def capacity(self) -> int:
        """The maximum number of steps into which it can be divided."""
        return max(self.highest - self.lowest + 2, 1)

    def points(self, steps: int, timing: Timing) -> Iterator[int]:
        """Yield the grid points that divide it into `steps` steps of equal time."""
        lowest = self.lowest
        for step in range(1, steps):
            time = self.start.time + (self.end.time - self.start.time) * step / steps
            t = self._t(timing.progress(self.leg, time))
            point = min(max(round(t * GRID), lowest), self.highest - (steps - 1 - step))
            yield point
            lowest = point + 1

    def _t(self, progress: float) -> float:
        """Return the t at which a progress is reached, on the cubic Hermite spline through both knots."""
        start, end = self.start, self.end
        whole = end.progress - start.progress
        part = (progress - start.progress) / whole
        return hermite(part, whole, (start.t, end.t), (start.slope, end.slope))


def _gaps(number: int, ts: Sequence[float], distances: Sequence[float], timing: Timing) -> list[_Gap]:
    """Return the gaps of a leg, given the t of its frames and the distances between them, all above 0."""
    lengths = list(accumulate(distances, initial=0.0))
    progress = [length / lengths[-1] for length in lengths]
    times = [timing.time(number, each) for each in progress]
    knots = [_Knot(*each) for each in zip(ts, progress, times, monotone_slopes(progress, ts), strict=True)]
    duration = timing.weight(number) * lengths[-1]
    return [_Gap(number, start, end, duration * (end.time - start.time)) for start, end in pairwise(knots)]


def monotone_slopes(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """Return the slopes at the knots of a curve, both of whose coordinates ascend, so that its cubics ascend, too.

    Each is the weighted harmonic mean of the secants on both sides. Source: Fritsch and Butland, "A Method for
    Constructing Local Monotone Piecewise Cubic Interpolants", 1984.
    """
    widths = [b - a for a, b in pairwise(xs)]
    secants = [(b - a) / width for (a, b), width in zip(pairwise(ys), widths, strict=True)]
    inner = [
        3 * (w + v) / ((2 * v + w) / one + (v + 2 * w) / other)
        for (w, v), (one, other) in zip(pairwise(widths), pairwise(secants), strict=True)
    ]
    return [secants[0], *inner, secants[-1]]


def hermite(part: float, width: float, ends: tuple[float, float], slopes: tuple[float, float]) -> float:
    """Return the value of a cubic between two knots, given the values and the slopes there.

    Args:
        part: how far it is from the first knot to the second, in [0, 1].
        width: between the knots.
        ends: the values.
        slopes: of the curve.
    """
    start, end = ends
    bend = part * (1 - part) * width
    return start + (end - start) * part**2 * (3 - 2 * part) + bend * ((1 - part) * slopes[0] - part * slopes[1])


def _probe_frames(frames: int, timing: Timing, size: int, most: int | None) -> int:
    """Return the number of frames of the first pass: a third, in whole batches; at least one within each leg."""
    least = 2 * timing.legs + (not timing.closed)
    whole = ceil(frames / 3 / size) * size
    wanted = whole if whole < frames else ceil(frames / 2)
    return min(max(least, wanted if most is None else min(wanted, most)), frames)


def _frames_after_next_pass(done: int, frames: int, size: int) -> int:
    """Return the number of frames of a walk after its next pass: twice as many as before.

    What is left after the last doubling comes in two passes, if both are whole batches, or else in one.
    """
    if 2 * done + size <= frames:
        return 2 * done
    half = done + ceil((frames - done) / 2 / size) * size
    return half if 4 * done < 3 * frames and half + size <= frames else frames


def _snapped(position: float, legs: int) -> float:
    """Return the grid point nearest to a position, as a position."""
    number, t = leg(position, legs)
    return (number + round(t * GRID) / GRID) / legs
