"""Whether frames of a model may be interpolated: `momalisa admit`, or `python -m worker.admission`.

A few walks are made as workers make them, and then their interpolated frames are denoised. The model is admitted if
the errors are small, and as small as was expected (`docs/decisions/0036-admission.md`).
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from momalisa.domain import dense, pacing, passes
from momalisa.domain.dense import Error
from momalisa.domain.passes import Recorded
from momalisa.domain.pins import Batch
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.settings import settings
from momalisa.telemetry import logging
from worker.media.encoders import Latents, Picture
from worker.media.thumbnail import thumbnail
from worker.process import startup
from worker.rendering import loaded
from worker.rendering.interpolation import check, difference, interpolate

if TYPE_CHECKING:
    from worker.rendering.pipeline import Renderer

log = logging.logger(__name__)

PAIRS = (("a giraffe", "a battleship"), ("a cat", "a castle"), ("a violin", "a swan"))
"""The prompts of the walks."""

FRAMES = 96
"""Frames of each walk, enough for some of them to be interpolated."""

MEAN, PERCENTILE_99 = 0.5, 2.0
"""The largest errors that are admitted, in levels of 255: of the interpolated frames of a walk, in the mean and for
99 % of them. Half precision alone changes frames by 0.2 to 0.3 (`docs/quality.md`)."""

UNEXPECTED = 0.05
"""The largest share of interpolated frames that may have more than twice the error that was expected."""

ROUNDING = 0.3
"""An error that needs no explanation, in levels of 255: as much as half precision makes."""


@dataclass
class DenseWalk:
    """A walk whose frames are made in this process, without a queue or a bucket."""

    pictures: dict[float, Picture] = field(default_factory=dict)
    """By position, as everything here."""
    latents: dict[float, Latents] = field(default_factory=dict)
    """Of the denoised frames."""
    recorded: dict[float, Recorded] = field(default_factory=dict)
    expected: dict[float, float] = field(default_factory=dict)
    """The expected mean error of each interpolated frame."""

    @property
    def interpolated(self) -> list[float]:
        """The positions of the interpolated frames, in ascending order."""
        return sorted(position for position, frame in self.recorded.items() if frame.interpolated)


Keep = Callable[[float, Picture, Latents | None], object]
"""Keeps a frame at a position; its latents are None if it is interpolated."""


def dense_walk(renderer: "Renderer", spec: WalkSpec, keep: Keep = lambda *_: None) -> DenseWalk:
    """Return a walk that ends where it does not start, made pass by pass, whether its model is admitted or not."""
    walk, size = DenseWalk(), renderer.batch_size
    batches = pacing.batches(passes.plan_first_pass(spec, size), size)
    while batches:
        keys = dict(walk.latents)
        for batch in batches:
            _make(renderer, spec, batch, keys, walk, keep)
        planned = passes.plan_next_pass(spec, walk.recorded, size)
        batches, walk.expected = planned.batches, walk.expected | planned.errors
    return walk


def _make(
    renderer: "Renderer",
    spec: WalkSpec,
    batch: Batch,
    keys: Mapping[float, Latents],
    walk: DenseWalk,
    keep: Keep,
) -> None:
    """Make the frames of a batch; compare those that are denoised with what interpolation would have given."""
    around = {at: dense.neighbours(at, sorted(keys), spec.legs) for at in batch.positions}
    between = interpolate({at: near for at, near in around.items() if near}, keys)
    decoded: dict[float, Picture] = {}
    flags: dict[float, Flag | None] = {}
    if between:
        rendering = renderer.decode(spec, np.stack(list(between.values())), batch_size=batch.size)
        decoded = dict(zip(between, rendering.pictures, strict=True))
        flags = dict(zip(between, rendering.flags, strict=True))
    if batch.interpolated:
        for position, picture in decoded.items():
            keep(position, picture, None)
            walk.pictures[position] = picture
            shown = None if flags[position] else thumbnail(picture)
            walk.recorded[position] = Recorded(shown, interpolated=True)
        return
    rendering = renderer.render(spec, batch.positions, batch_size=batch.size)
    assert rendering.latents is not None
    made = zip(batch.positions, rendering.pictures, rendering.flags, rendering.latents, strict=True)
    for position, picture, flag, latents in made:
        keep(position, picture, latents)
        walk.pictures[position] = picture
        if flag:
            walk.recorded[position] = Recorded(None)
            continue
        walk.latents[position] = latents
        known = position in decoded and not flags[position]
        found = check(position, around[position], decoded[position], picture) if known else None
        walk.recorded[position] = Recorded(thumbnail(picture), latents=True, check=found)


@dataclass(frozen=True)
class Trial:
    """How the interpolated frames of a walk differ from denoised ones."""

    prompts: tuple[str, ...]
    frames: int
    expected: list[float]
    """The expected mean errors of the interpolated frames, in levels of 255."""
    errors: list[Error]
    """The true errors of the same frames."""

    @property
    def mean(self) -> float:
        """The mean of the true errors."""
        return fmean(error.mean for error in self.errors) if self.errors else 0.0

    @property
    def percentile_99(self) -> float:
        """The mean error that 99 % of the frames do not exceed."""
        return float(np.percentile([error.mean for error in self.errors], 99)) if self.errors else 0.0

    @property
    def unexpected(self) -> float:
        """The share of frames that have more than twice the error that was expected."""
        pairs = zip(self.expected, self.errors, strict=True)
        far = [error.mean > max(2 * expected, ROUNDING) for expected, error in pairs]
        return fmean(far) if far else 0.0

    @property
    def mistakes(self) -> list[str]:
        """Return why a model is not admitted by this walk."""
        name = " to ".join(self.prompts)
        found = []
        if not self.errors:
            found.append(f"{name}: every frame had to be denoised, so nothing would be gained")
        if self.mean > MEAN:
            found.append(f"{name}: the mean error is {self.mean:.2f}, above {MEAN}")
        if self.percentile_99 > PERCENTILE_99:
            found.append(
                f"{name}: of 100 frames one has an error above {self.percentile_99:.2f}, not {PERCENTILE_99}"
            )
        if self.unexpected > UNEXPECTED:
            found.append(f"{name}: {self.unexpected:.0%} of the errors are more than twice the expected ones")
        return found


def trial(renderer: "Renderer", spec: WalkSpec) -> Trial:
    """Make a walk, and measure the errors of its interpolated frames."""
    walk = dense_walk(renderer, spec)
    positions = walk.interpolated
    exact = list(renderer.render(spec, positions).pictures) if positions else []
    errors = [difference(walk.pictures[at], picture) for at, picture in zip(positions, exact, strict=True)]
    return Trial(spec.prompts, spec.frames, [walk.expected[at] for at in positions], errors)


def report(trials: Sequence[Trial], revision: str) -> Iterator[str]:
    """Yield the lines of a report: a table of the walks, whether the model is admitted, and what to do."""
    row = "{:32}  {:>9}  {:>8}  {:>5}  {:>5}  {:>13}  {:>10}"
    yield row.format("walk", "denoised", "expected", "mean", "99 %", "largest block", "unexpected")
    for each in trials:
        denoised = each.frames - len(each.errors)
        numbers = (fmean(each.expected or [0]), each.mean, each.percentile_99)
        yield row.format(
            " to ".join(each.prompts),
            f"{denoised} of {each.frames}",
            *(f"{number:.2f}" for number in numbers),
            f"{max((error.block for error in each.errors), default=0):.1f}",
            f"{each.unexpected:.0%}",
        )
    yield "Errors of the interpolated frames to denoised ones, in levels of 255; a block is 4 × 4 pixels."
    yield ""
    mistakes = [mistake for each in trials for mistake in each.mistakes]
    if mistakes:
        yield "The model is not admitted, so every frame of its walks is denoised:"
        yield from (f"- {mistake}." for mistake in mistakes)
    elif revision in settings().dense_revisions:
        yield f"The model is admitted: DENSE_REVISIONS has its revision {revision} already."
    else:
        yield "The model is admitted. Set this for the render workers, and restart them:"
        others = [each for each in settings().dense_revisions if each != "none"]
        yield f"DENSE_REVISIONS={','.join([*others, revision])}"


def main() -> int:
    """Measure the configured model, and print a report; return 0 if it is admitted, and 1 if not."""
    try:
        logging.configure()
        described, renderer = loaded.model(), loaded.renderer()
    except Exception as error:  # noqa: BLE001 - any error is explained
        sys.exit(startup.explain(error))
    if not renderer.decodes:
        sys.exit(f"{described.name} stays exact: its pipeline does more with latents than to decode them.")
    trials = []
    for pair in PAIRS:
        spec = WalkSpec(
            prompts=pair,
            frames=FRAMES,
            exact=False,
            pacing="even",
            seed=7,
            negative_prompt="",
            steps=described.steps,
            guidance=described.guidance,
            width=described.size,
            height=described.size,
            fps=24,
        )
        trials.append(trial(renderer, spec))
        log.info("walk measured", prompts=pair)
    print("\n".join(report(trials, renderer.revision)))  # noqa: T201 - the output of the command
    return 1 if any(each.mistakes for each in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
