"""Dense walks, compared with exact ones and with other ways to fill in frames: `python -m benchmarks.dense`.

Each walk is made as one warm worker makes it, with the product's renderer and planning, once densely and once with
every frame denoised at the same positions; some are also made by the whole system. With all of `CASES` it takes
about 20 to 35 minutes on two quiet cores.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import filling, quality, smoothness
from benchmarks.peers import Pictures
from benchmarks.render import CORES, all_there, done, wait_for_workers, watched
from benchmarks.smoothness import FRAMES_TO_CACHE, METRICS, PAIRS, Studio
from momalisa import description
from momalisa.client import Client
from momalisa.domain import path
from momalisa.domain.spec import WalkSpec
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import settings
from worker.admission import DenseWalk, dense_walk
from worker.media.encoders import Latents, Picture, encode_png
from worker.media.metadata import frame_caption
from worker.rendering.interpolation import difference
from worker.rendering.loaded import renderer
from worker.rendering.pipeline import Renderer

COMPARED = 192
"""Frames of the walks for which there are targets, and which other ways fill in, too."""

CASES = {
    (8, 64): 5,
    (8, 96): 5,
    (8, COMPARED): 20,
    (8, 480): 2,
    (20, 64): 2,
    (20, 96): 2,
    (20, COMPARED): 4,
    (20, 480): 1,
}
"""The number of pairs, by denoising steps and frames."""

FASTER = {8: 2.5, 20: 3.3}
"""How many times faster than exact a dense walk is to be, by steps."""

SYSTEM_PAIRS = 2
"""The number of walks that the whole system makes, too."""

SEED = 7

DENSE, BLENDING = "dense", "latentblending"

WAYS = {"exact keys, blended": filling.blended, "exact keys, `minterpolate`": filling.motion_compensated}
"""Other ways that fill in frames between exact ones."""


class Errors(NamedTuple):
    """How frames differ from exact ones, in levels of 255."""

    mean: float
    percentile_99: float
    """Of the frames' means."""
    block: float
    """The largest mean of a block of 4 × 4 pixels."""


NO_ERRORS = Errors(0, 0, 0)


@dataclass(frozen=True)
class Filled:
    """The measurements of the interpolated frames of a walk."""

    errors: Errors = NO_ERRORS
    expected: float = 1.0
    """The mean of their expected errors ÷ that of the true ones."""
    unexpected: float = 0.0
    """The share of them with more than twice the expected error, and above 0.1."""
    sharpness: float = 1.0
    """Theirs ÷ that of the exact frames."""


@dataclass(frozen=True)
class Measured:
    """The measurements of one walk."""

    denoised: float
    """Share of the frames."""
    speedup: float
    """Seconds until the last frame of the exact walk ÷ those of the dense one."""
    filled: Filled
    smooth: dict[str, tuple[float, float]]
    """Smoothness of the walk and of an exact one with its own pacing, by metric."""
    ways: dict[str, float] = field(default_factory=dict)
    """The mean error over all frames, of the dense walk and of others in the same time."""


def errors(pictures: Pictures, exact: Pictures) -> Errors:
    """Return how pictures differ from exact ones."""
    found = [difference(picture, other) for picture, other in zip(pictures, exact, strict=True)]
    means = [each.mean for each in found]
    return Errors(statistics.fmean(means), float(np.percentile(means, 99)), max(each.block for each in found))


def sharpness(pictures: Pictures) -> float:
    """Return the mean absolute difference between neighbouring pixels."""
    return float(np.abs(np.diff(pictures.astype(np.int16), axis=2)).mean())


def measure(renderer: Renderer, studio: Studio, spec: WalkSpec, *, compare: bool) -> Measured:
    """Make a walk densely and exactly, and in other ways if these are to be compared, and measure it."""

    def keep(position: float, picture: Picture, latents: Latents | None = None) -> None:
        encode_png(picture, frame_caption(spec, settings().model_name, position), latents)

    started = time.perf_counter()
    walk = dense_walk(renderer, spec, keep)
    seconds = time.perf_counter() - started
    positions = sorted(walk.pictures)
    started = time.perf_counter()
    exact = _all_denoised(renderer, spec, positions)
    for position, picture in zip(positions, exact, strict=True):
        keep(position, picture)
    exact_seconds = time.perf_counter() - started
    pictures = np.stack([walk.pictures[position] for position in positions])
    own_pacing = smoothness.evenly_paced(studio, spec.model_copy(update={"exact": True}))
    ways = {}
    if compare:
        each = exact_seconds / spec.frames
        ways[DENSE] = errors(pictures, exact).mean
        for name, way in WAYS.items():
            ways[name] = errors(filling.affordable(way, exact, seconds, each), exact).mean
        tree = filling.Tree(renderer, spec)
        tree.grow(seconds)
        ways[BLENDING] = errors(tree.frames(positions), exact).mean
    return Measured(
        denoised=1 - len(walk.interpolated) / spec.frames,
        speedup=exact_seconds / seconds,
        filled=_filled(walk, positions, pictures, exact),
        smooth={
            name: (
                smoothness.figures(list(pictures), metric).smoothness,
                smoothness.figures(own_pacing, metric).smoothness,
            )
            for name, metric in METRICS.items()
        },
        ways=ways,
    )


def _all_denoised(renderer: Renderer, spec: WalkSpec, positions: Sequence[float]) -> Pictures:
    """Render frames as a worker does: chunk by chunk, coarse to fine."""
    found: dict[int, Picture] = {}
    for chunk in path.chunks(len(positions), renderer.batch_size):
        rendering = renderer.render(spec, [positions[index] for index in chunk])
        found.update(zip(chunk, rendering.pictures, strict=True))
    return np.stack([found[index] for index in sorted(found)])


def _filled(walk: DenseWalk, positions: Sequence[float], pictures: Pictures, exact: Pictures) -> Filled:
    chosen = [positions.index(position) for position in walk.interpolated]
    if not chosen:
        return Filled()
    true = [difference(pictures[index], exact[index]).mean for index in chosen]
    expected = [walk.expected[position] for position in walk.interpolated]
    return Filled(
        errors=errors(pictures[chosen], exact[chosen]),
        expected=sum(expected) / sum(true),
        unexpected=statistics.fmean(one > max(2 * other, 0.1) for one, other in zip(true, expected, strict=True)),
        sharpness=sharpness(pictures[chosen]) / sharpness(exact[chosen]),
    )


def through_system(specs: Sequence[WalkSpec]) -> list[float]:
    """Return for walks the seconds until two workers of the whole system made their last frame: exact ÷ dense."""
    ratios = []
    with ExitStack() as contexts:
        folder = Path(contexts.enter_context(tempfile.TemporaryDirectory(prefix="momalisa-bench-")))
        system = contexts.enter_context(stack.started(LocalStack(folder, port=free_port(), workers=2)))
        client = contexts.enter_context(Client(system.url))
        wait_for_workers(system)
        for spec in specs:
            seconds = []
            for exact in (True, False):
                settings_of_walk = spec.model_dump(mode="json", exclude={"prompts", "exact"}, exclude_defaults=True)
                started = time.perf_counter()
                walk = client.submit(spec.prompts, exact=exact, **settings_of_walk)
                walk = watched(client, walk, all_there)
                seconds.append(time.perf_counter() - started)
                watched(client, walk, done)
            ratios.append(seconds[0] / seconds[1])
    return ratios


Results = dict[tuple[int, int], dict[tuple[str, str], Measured]]
"""By steps and frames, then by pair."""


def lines(results: Results, size: int) -> Iterator[str]:
    """Yield the lines of the report."""
    made_with = renderer().made_with
    yield (
        f"`make bench-dense`: {size} × {size} pixels, seed {SEED}, {settings().model_name} in {made_with.dtype}; "
        f"{torch.get_num_threads()} threads on {CORES} cores, "
        f"torch {torch.__version__}. Means over the pairs, but the 99th percentile "
        "and the largest block are those of the worst. Errors are of the interpolated frames, in levels of 255."
    )
    yield ""
    titles = ["steps, frames, pairs", "denoised", "faster", "error: mean / 99 % / largest block"]
    titles += ["expected ÷ true error", "above twice the expected", "sharpness"]
    titles += [f"smoothness by {name}: dense / exact" for name in METRICS]
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for (steps, frames), walks in results.items():
        yield f"| {steps}, {frames}, {len(walks)} | {_cells(list(walks.values()))} |"
    for (steps, frames), walks in results.items():
        if all(walk.ways for walk in walks.values()):
            yield ""
            yield from _verdicts(f"{frames} frames, {steps} steps", FASTER.get(steps, 1), list(walks.values()))
            yield ""
            yield from _ways(f"{frames} frames, {steps} steps", walks)


def _cells(walks: Sequence[Measured]) -> str:
    mean = statistics.fmean(walk.filled.errors.mean for walk in walks)
    highest = max(walk.filled.errors.percentile_99 for walk in walks)
    block = max(walk.filled.errors.block for walk in walks)
    cells = [
        f"{statistics.fmean(walk.denoised for walk in walks):.0%}",
        f"× {statistics.fmean(walk.speedup for walk in walks):.2f}",
        f"{mean:.2f} / {highest:.2f} / {block:.1f}",
        f"{statistics.fmean(walk.filled.expected for walk in walks):.1f}",
        f"{statistics.fmean(walk.filled.unexpected for walk in walks):.1%}",
        f"{statistics.fmean(walk.filled.sharpness for walk in walks):.3f}",
    ]
    for name in METRICS:
        own, exact = (statistics.fmean(walk.smooth[name][index] for walk in walks) for index in (0, 1))
        cells.append(f"{own:.3f} / {exact:.3f}")
    return " | ".join(cells)


def _verdicts(case: str, faster: float, walks: Sequence[Measured]) -> Iterator[str]:
    """Yield what is asked for, and how many walks meet it."""
    smooth = [min(walk.smooth[name][0] - walk.smooth[name][1] for name in METRICS) for walk in walks]
    gained = [min(error for way, error in walk.ways.items() if way != DENSE) - walk.ways[DENSE] for walk in walks]
    at_most: list[tuple[str, list[float], float]] = [
        ("percent of the frames denoised ≤ 25", [100 * walk.denoised for walk in walks], 25),
        ("mean error ≤ 0.3", [walk.filled.errors.mean for walk in walks], 0.3),
        ("error of 99 % of the frames ≤ 1", [walk.filled.errors.percentile_99 for walk in walks], 1),
        ("largest block ≤ 8", [walk.filled.errors.block for walk in walks], 8),
    ]
    at_least: list[tuple[str, list[float], float]] = [
        (f"times faster ≥ {faster}", [walk.speedup for walk in walks], faster),
        ("expected error ÷ true error ≥ 0.5", [walk.filled.expected for walk in walks], 0.5),
        ("smoothness, by both metrics, minus that of the exact walk ≥ −0.01", smooth, -0.01),
        ("error of the best other way in the same time, minus ours ≥ 0", gained, 0),
    ]
    yield f"| {case} | met by | worst walk |"
    yield "|---|---|---|"
    for what, values, limit in at_most:
        yield f"| {what} | {sum(value <= limit for value in values)} of {len(walks)} | {max(values):.2f} |"
    for what, values, limit in at_least:
        yield f"| {what} | {sum(value >= limit for value in values)} of {len(walks)} | {min(values):.2f} |"


def _ways(case: str, walks: dict[tuple[str, str], Measured]) -> Iterator[str]:
    """Yield the mean errors over all frames of each walk, in the time of the dense one."""
    names = [DENSE, *WAYS, BLENDING]
    yield f"| {case}: mean error over all frames, in the same time | {' | '.join(names)} |"
    yield "|" + "---|" * (1 + len(names))
    for (start, end), walk in walks.items():
        yield f"| {start} → {end} | {' | '.join(f'{walk.ways[name]:.2f}' for name in names)} |"
    means = (statistics.fmean(walk.ways[name] for walk in walks.values()) for name in names)
    yield f"| **mean** | {' | '.join(f'{mean:.2f}' for mean in means)} |"


def main() -> None:
    """Measure, and write the tables."""
    parser = quality.parser("benchmarks.dense", __doc__)
    parser.add_argument(
        "--frames", type=int, choices=sorted({frames for _, frames in CASES}), help="only these; write no document"
    )
    parser.add_argument("--steps", type=int, choices=sorted(FASTER), help="only these; write no document")
    given = parser.parse_args()
    short, only = given.short, given.frames or given.steps
    model = description.of_settings()
    chosen = {
        (steps, frames): pairs
        for (steps, frames), pairs in CASES.items()
        if given.frames in {frames, None} and given.steps in {steps, None}
    }
    cases, size = ({(2, 64): 1}, 64) if short else (chosen, model.size)

    def spec(pair: tuple[str, str], steps: int, frames: int) -> WalkSpec:
        return WalkSpec(
            prompts=pair,
            frames=frames,
            exact=False,
            pacing="even",
            seed=SEED,
            negative_prompt="",
            steps=steps,
            guidance=model.guidance,
            width=size,
            height=size,
            fps=24,
        )

    studio = Studio(renderer(), FRAMES_TO_CACHE)
    results: Results = {}
    for (steps, frames), count in cases.items():
        walks = results.setdefault((steps, frames), {})
        for pair in PAIRS[:count]:
            started = time.monotonic()
            walks[pair] = measure(
                renderer(), studio, spec(pair, steps, frames), compare=short or frames == COMPARED
            )
            about = f"{steps} steps, {frames} frames, {pair[0]} → {pair[1]}"
            print(f"{about}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    table = list(lines(results, size))
    if not short and not only:
        for steps in FASTER:
            pairs = PAIRS[:SYSTEM_PAIRS]
            ratios = through_system([spec(pair, steps, COMPARED) for pair in pairs])
            about = f"Faster with two workers of the whole system, {COMPARED} frames, {steps} steps"
            faster = (f"{' → '.join(pair)} × {ratio:.2f}" for pair, ratio in zip(pairs, ratios, strict=True))
            table += ["", f"{about}: {', '.join(faster)}."]
    print("\n".join(table))
    if not short and not only:
        quality.write("bench-dense", table)


if __name__ == "__main__":
    main()
