"""The passes of a walk: which frames are made next, and how.

The first pass is a probe, and each later one puts frames where the picture moves (`pacing`). The passes of a dense
walk denoise their frames, too, except the last one: it interpolates what is left between them (`dense`), once each
gap in which it puts frames was checked:

    first pass    o-------------------o-------------------o       denoised
    second        |         o         |         o         |       denoised, and compared with an interpolation
    third         |         |         |    o    |    o    |       only where the difference was too large
    last          | x  x  x | x  x  x | x  | x  | x  | x  |       interpolated

Everything here is a pure function of what was recorded, so that any process plans the same pass.
"""

from bisect import bisect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, sqrt
from typing import NamedTuple

from momalisa.domain import pacing
from momalisa.domain.dense import Check, Error
from momalisa.domain.path import apportion, leg, linspace_indices, positions
from momalisa.domain.pins import MAX_BATCH, Batch
from momalisa.domain.spec import WalkSpec

FEWEST_FRAMES = 64
"""Walks of fewer frames a leg are not dense enough for interpolation: with the checks it would take longer than
denoising all their frames (`docs/quality.md`)."""

DENOISED_PER_LEG = 48
"""About so many frames of each leg of a dense walk are denoised, however many it has (`make bench-dense`)."""

PROBES = 8
"""Frames of the first pass for each leg of a dense walk, up to whole batches."""

TOLERANCE = Error(mean=3.0, block=24.0)
"""A gap is filled by interpolation if no error in it is expected to be above this; most are far below."""

LONGEST = 1 / 20
"""Length of a gap that is filled, at most: as a share of its leg's, since a check sees only one place of a gap."""

LARGER = 4
"""A chunk of interpolated frames has so many batches, since decoding is a small part of rendering."""


class Recorded(NamedTuple):
    """A recorded frame, as far as later passes depend on it."""

    thumbnail: bytes | None
    """None if it is flagged; then it counts as equal to the one before it."""
    latents: bool = False
    """Whether others can be interpolated from it."""
    interpolated: bool = False
    check: Check | None = None


class Pass(NamedTuple):
    """The frames to make next."""

    batches: list[Batch]
    errors: dict[float, float]
    """The expected error of each interpolated frame, by position: its mean difference to a denoised one."""


def is_dense(spec: WalkSpec) -> bool:
    """Return whether frames of a walk may be interpolated."""
    return not spec.exact and spec.frames >= FEWEST_FRAMES * spec.legs


def expected_work(spec: WalkSpec, made: int) -> float:
    """Return about how much of the work of a dense walk is left, in denoised frames, once `made` frames are made.

    An interpolated frame counts as one denoising step.
    """
    left = spec.frames - made
    denoised = min(max(DENOISED_PER_LEG * spec.legs - made, 0), left)
    return denoised + (left - denoised) / spec.steps


def plan_first_pass(spec: WalkSpec, size: int, kept: Collection[float] = ()) -> list[float]:
    """Return the positions of the first pass, in ascending order.

    Args:
        spec: the walk.
        size: frames in a batch.
        kept: positions of existing frames, which become part of the walk if its pacing allows it.
    """
    if not is_dense(spec):
        return pacing.plan_first_pass(spec, size, kept)
    most = ceil(PROBES * spec.legs / size) * size
    if spec.pacing == "even":
        return pacing.plan_first_pass(spec, size, kept, most=most)
    wanted = positions(spec.frames, spec.timing, spec.leg_frames)
    stops = positions(spec.legs + (not spec.timing.closed), spec.timing)
    probes = {wanted[index] for index in linspace_indices(len(wanted), min(most, len(wanted)))}
    return sorted({*probes, *stops, *(kept if set(kept) <= set(wanted) else ())})


def plan_next_pass(spec: WalkSpec, recorded: Mapping[float, Recorded], size: int) -> Pass:
    """Return the frames of the next pass; there are none if the walk has all its frames.

    Args:
        spec: the walk.
        recorded: all frames planned so far, by position; every stop has one.
        size: frames in a batch.
    """
    left = spec.frames - len(recorded)
    if not left:
        return Pass([], {})
    if not is_dense(spec):
        thumbnails = {position: frame.thumbnail for position, frame in recorded.items()}
        return Pass(pacing.batches(pacing.plan_next_pass(spec, thumbnails, size), size), {})
    gaps = list(_gaps(spec, recorded))
    open_gaps = [gap for gap in gaps if not gap.can_be_filled]
    if not open_gaps:
        return _fill(gaps, size)
    wanted = [gap.wanted for gap in open_gaps]
    most = [len(gap.points) for gap in open_gaps]
    count = min(ceil(sum(wanted) / size) * size, sum(most), max(len(recorded), len(open_gaps)))
    new = [
        gap.points[index]
        for gap, number in zip(open_gaps, apportion(wanted, count, most), strict=True)
        for index in _inner_indices(len(gap.points), number)
    ]
    return Pass(pacing.batches(new, size), {})


def _fill(gaps: Sequence["_Gap"], size: int) -> Pass:
    """Return the last pass, whose chunks are contiguous, so that each is interpolated between few frames."""
    errors = {point: gap.error.mean for gap in gaps if gap.error for point in gap.points}
    points, most = sorted(errors), size * max(min(LARGER, MAX_BATCH // size), 1)
    parts = [points[start : start + most] for start in range(0, len(points), most)]
    return Pass([Batch(size=size, positions=part, interpolated=True) for part in parts], errors)


def _inner_indices(total: int, count: int) -> list[int]:
    """Return `count` of the indices 0 … total - 1 that divide them into parts as equal as possible."""
    return [((2 * step + 1) * total) // (2 * count) for step in range(count)]


@dataclass(frozen=True)
class _Gap:
    """A gap between two neighbouring frames that were denoised, with the frames that are still to be made in it."""

    points: list[float]
    has_latents: bool
    """Whether both frames have latents."""
    error: Error | None
    """What is to be expected of interpolation; None if no check covers it."""
    share: float
    """Its length, as a share of its leg's."""

    @property
    def can_be_filled(self) -> bool:
        """Whether its frames may be interpolated."""
        return self.has_latents and self.error is not None and max(self._excess, self.share / LONGEST) <= 1

    @property
    def wanted(self) -> int:
        """How many of its frames to denoise next, if it cannot be filled."""
        if not self.has_latents:
            return len(self.points)
        # Errors mostly fall with the square of a length.
        parts = ceil(max(sqrt(self._excess), self.share / LONGEST))
        return min(max(parts - 1, 1), len(self.points))

    @property
    def _excess(self) -> float:
        """How many times the tolerance the error is; 0 if it is unknown."""
        return max(error / allowed for error, allowed in zip(self.error or (0, 0), TOLERANCE, strict=True))


def _gaps(spec: WalkSpec, recorded: Mapping[float, Recorded]) -> Iterator[_Gap]:
    """Yield the gaps of a walk in which frames are still to be made."""
    known = sorted(recorded)
    frames = [recorded[position] for position in known]
    if spec.timing.closed:
        known, frames = [*known, 1.0], [*frames, frames[0]]
    thumbnails: list[bytes] = []
    for frame in frames:
        thumbnails.append(frame.thumbnail or (thumbnails[-1] if thumbnails else b""))
    distances = [pacing.distance(a, b) for a, b in pairwise(thumbnails)]
    lengths = dict(zip(known, accumulate(distances, initial=0.0), strict=True))
    of_legs = [0.0] * spec.legs
    for start, length in zip(known, distances, strict=False):
        of_legs[leg(start, spec.legs)[0]] += length
    points = _points(spec, known, distances, spec.frames - len(recorded))
    # A frame that was copied brings its check along, whose ends need not be frames of this walk.
    found = [frame.check for frame in frames if frame.check is not None]
    checks = [check for check in found if check.start in lengths and check.end in lengths]
    ends = [
        (position, frame.latents) for position, frame in zip(known, frames, strict=True) if not frame.interpolated
    ]
    for (start, from_latents), (end, to_latents) in pairwise(ends):
        inside = points[bisect(points, start) : bisect(points, end)]
        if inside:
            whole = of_legs[leg(start, spec.legs)[0]]
            yield _Gap(
                inside,
                has_latents=from_latents and to_latents,
                error=_error(start, end, checks, lengths),
                share=(lengths[end] - lengths[start]) / whole if whole else 0.0,
            )


def _points(spec: WalkSpec, known: Sequence[float], distances: Sequence[float], count: int) -> list[float]:
    """Return the positions of all frames that are still to be made."""
    if spec.pacing == "even":
        return pacing.subdivide(known, distances, count, spec.timing, spec.leg_frames)
    return [each for each in positions(spec.frames, spec.timing, spec.leg_frames) if each not in {*known}]


def _error(start: float, end: float, checks: Sequence[Check], lengths: Mapping[float, float]) -> Error | None:
    """Return the error to expect in a gap, from the checks of the narrowest gap that covers it.

    It falls with the square of a gap's length, measured along the changes of the picture, but not in all of its
    parts; so that it is seldom exceeded, only the first power is counted on (`docs/quality.md`).
    """
    covering = [check for check in checks if check.start <= start and end <= check.end]
    if not covering:
        return None
    narrowest = min(check.end - check.start for check in covering)
    same = [check for check in covering if check.end - check.start == narrowest]
    whole = lengths[same[0].end] - lengths[same[0].start]
    part = (lengths[end] - lengths[start]) / whole if whole else 1.0
    return Error(part * max(check.mean for check in same), part * max(check.block for check in same))
