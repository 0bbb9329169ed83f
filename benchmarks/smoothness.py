"""The smoothness of walks: `python -m benchmarks.smoothness`.

For each pair of prompts it renders a walk with linear and one with even pacing, with the product's renderer and
planning, and an oracle, which selects the frames by arc length from eight times as many. Distances between frames
are measured by two metrics that the pacing does not use.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import quality
from momalisa import description
from momalisa.domain import pacing
from momalisa.domain.content import content_hashes
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ROOT, settings
from worker.media.encoders import Picture, decode_png, encode_png
from worker.media.metadata import frame_caption
from worker.media.thumbnail import thumbnail
from worker.rendering.loaded import renderer
from worker.rendering.pipeline import Renderer

PAIRS = [
    ("a giraffe", "a battleship"),
    ("a cat", "a castle"),
    ("an apple", "a planet"),
    ("a fox", "a sailing boat"),
    ("a rocket", "a lighthouse"),
    ("a rose", "a butterfly"),
    ("a violin", "a swan"),
    ("an owl", "an alarm clock"),
    ("a pizza", "a full moon"),
    ("a whale", "a submarine"),
    ("a snail", "a camera"),
    ("a mushroom", "an umbrella"),
    ("a tiger", "a racing car"),
    ("a snowman", "a guitar"),
    ("a cactus", "a candle"),
    ("a bee", "a helicopter"),
    ("a teapot", "an elephant"),
    ("a crown", "a strawberry"),
    ("a robot", "a penguin"),
    ("a tree", "a hot air balloon"),
]

DENSER = 8
"""Factor of the number of frames from which the oracle selects."""

FRAMES_TO_CACHE = ROOT / ".momalisa" / "benchmarks"

Metric = Callable[[Picture, Picture], float]


class Studio:
    """Renders frames, and caches them in a folder."""

    def __init__(self, renderer: Renderer, folder: Path) -> None:
        self._renderer = renderer
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def frames(self, spec: WalkSpec, wanted: Sequence[float]) -> list[Picture]:
        """Return the frames of a walk at some positions."""
        made_with, size = self._renderer.made_with.model_dump_json(), self._renderer.batch_size
        names = [content_hashes(spec, [position], made_with, size)[0] for position in wanted]
        paths = [self._folder / f"{name}.png" for name in names]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        if missing:
            for index, picture in zip(
                missing, self._renderer.render(spec, [wanted[index] for index in missing]).pictures, strict=True
            ):
                about = frame_caption(spec, settings().model_name, wanted[index])
                paths[index].write_bytes(encode_png(picture, about))
        return [decode_png(path.read_bytes()) for path in paths]


def dissimilarity(one: Picture, other: Picture) -> float:
    """Return 1 − SSIM of the luma. Source: Wang, Bovik, Sheikh and Simoncelli, 2004: Gaussian window, σ = 1.5."""
    a, b = (picture @ np.array([0.299, 0.587, 0.114]) for picture in (one, other))
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a, variance_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return float(1 - similarity.mean())


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means under a Gaussian window of 11 × 11, at all positions inside the picture."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    rows = np.lib.stride_tricks.sliding_window_view(values, 11, axis=0) @ window
    return np.lib.stride_tricks.sliding_window_view(rows, 11, axis=1) @ window


_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(axis=1)


def lab(picture: Picture) -> NDArray[np.float64]:
    """Return a picture in CIELAB under D65, the channels last. Source: IEC 61966-2-1 and CIE 15:2004."""
    level = picture / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004
    ratio = light @ _TO_XYZ.T / _WHITE
    bent = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / 3 / (6 / 29) ** 2 + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_rms(one: Picture, other: Picture) -> float:
    """Return the root mean square of the distance in CIELAB."""
    difference = lab(one) - lab(other)
    return float(np.sqrt((difference**2).sum(axis=-1).mean()))


METRICS: dict[str, Metric] = {"1 − SSIM": dissimilarity, "RMS in CIELAB": lab_rms}


@dataclass(frozen=True)
class Figures:
    """The smoothness of a walk by one metric."""

    smoothness: float
    """1 − Gini of the steps: 1 if all are equal."""
    largest: float
    """The largest step ÷ the mean."""
    detour: float
    """The length of the path ÷ the distance of its ends."""


def figures(pictures: Sequence[Picture], metric: Metric) -> Figures:
    """Return the smoothness of a walk by a metric."""
    steps = [metric(a, b) for a, b in pairwise(pictures)]
    return Figures(
        1 - gini(steps), max(steps) / statistics.fmean(steps), sum(steps) / metric(pictures[0], pictures[-1])
    )


def gini(values: Sequence[float]) -> float:
    """Return the Gini coefficient: half the mean absolute difference of two values, by their mean."""
    ordered = np.sort(values)
    ranks = np.arange(1, len(ordered) + 1)
    return float(((2 * ranks - len(ordered) - 1) * ordered).sum() / len(ordered) / ordered.sum())


def evenly_paced(studio: Studio, spec: WalkSpec) -> list[Picture]:
    """Return the frames of a walk as workers would render them, pass by pass."""
    found: dict[float, Picture] = {}
    new = pacing.plan_first_pass(spec, settings().batch_size)
    while new:
        found.update(zip(new, studio.frames(spec, new), strict=True))
        new = pacing.plan_next_pass(
            spec, {position: thumbnail(picture) for position, picture in found.items()}, settings().batch_size
        )
    return [found[position] for position in sorted(found)]


def by_arc_length(dense: Sequence[Picture], frames: int, metric: Metric) -> list[Picture]:
    """Return `count` distinct pictures at nearly equal intervals of arc length."""
    way = np.cumsum([0.0, *(metric(a, b) for a, b in pairwise(dense))])
    chosen = [-1]
    for number, length in enumerate(np.linspace(0, way[-1], frames), start=1):
        nearest = int(np.abs(way - length).argmin())
        chosen.append(min(max(nearest, chosen[-1] + 1), len(dense) - 1 - frames + number))
    return [dense[index] for index in chosen[1:]]


@dataclass(frozen=True)
class Row:
    """The measurements of a pair by one metric."""

    linear: Figures
    even: Figures
    oracle: Figures


def measure(studio: Studio, spec: WalkSpec) -> dict[str, Row]:
    """Return the figures of one walk, by metric."""
    steps = DENSER * (spec.frames - 1)
    dense = studio.frames(spec, [step / steps for step in range(steps + 1)])
    linear = dense[::DENSER]
    even = evenly_paced(studio, spec)
    return {
        name: Row(
            linear=figures(linear, metric),
            even=figures(even, metric),
            oracle=figures(by_arc_length(dense, spec.frames, metric), metric),
        )
        for name, metric in METRICS.items()
    }


def lines(spec: WalkSpec, measured: dict[tuple[str, str], dict[str, Row]]) -> Iterator[str]:
    """Yield the lines of the table, and of the comparison with the targets."""
    size = f"{spec.width} × {spec.height} pixels"
    yield f"{len(measured)} pairs, {spec.frames} frames, {spec.steps} steps, {size}, seed {spec.seed}. Each cell:"
    yield "smoothness / largest step ÷ mean / detour, of linear pacing → **even pacing** → the oracle."
    yield ""
    yield f"| pair | {' | '.join(METRICS)} |"
    yield "|---|---|---|"
    for (start, end), rows in measured.items():
        yield f"| {start} → {end} | {' | '.join(_cell([rows[name]]) for name in METRICS)} |"
    columns = {name: [rows[name] for rows in measured.values()] for name in METRICS}
    yield f"| **mean** | {' | '.join(_cell(rows) for rows in columns.values())} |"
    yield ""
    yield "| what is asked for | " + " | ".join(METRICS) + " |"
    yield "|---|---|---|"
    yield _verdict("of the gap between linear and the oracle closed, in the mean (2/3)", columns, _gap_closed)
    yield _verdict("pairs that are smoother than linear (all)", columns, _count(_is_smoother))
    yield _verdict("pairs with largest step ÷ mean ≤ 3 (15 of 20)", columns, _count(_has_no_jump))
    jumps = {
        f"{start} → {end} ({name}: {rows[name].even.largest:.1f}, the oracle's {rows[name].oracle.largest:.1f})"
        for (start, end), rows in measured.items()
        for name in METRICS
        if not _has_no_jump(rows[name])
    }
    yield ""
    yield f"Jumps that are left: {'; '.join(sorted(jumps)) or 'none'}."


def _cell(rows: Sequence[Row]) -> str:
    linear, even, oracle = (
        " / ".join(
            f"{statistics.fmean(getattr(getattr(row, pace), figure) for row in rows):{form}}"
            for figure, form in (("smoothness", ".2f"), ("largest", ".1f"), ("detour", ".1f"))
        )
        for pace in ("linear", "even", "oracle")
    )
    return f"{linear} → **{even}** → {oracle}"


def _verdict(what: str, columns: dict[str, list[Row]], tell: Callable[[list[Row]], str]) -> str:
    return f"| {what} | {' | '.join(tell(rows) for rows in columns.values())} |"


def _gap_closed(rows: list[Row]) -> str:
    linear, even, oracle = (
        statistics.fmean(getattr(row, pace).smoothness for row in rows) for pace in ("linear", "even", "oracle")
    )
    return f"{(even - linear) / (oracle - linear):.0%}"


def _count(holds: Callable[[Row], bool]) -> Callable[[list[Row]], str]:
    return lambda rows: f"{sum(map(holds, rows))} of {len(rows)}"


def _is_smoother(row: Row) -> bool:
    return row.even.smoothness > row.linear.smoothness


def _has_no_jump(row: Row) -> bool:
    return row.even.largest <= 3  # noqa: PLR2004 - the target


def main() -> None:
    """Measure, and write the table."""
    parser = quality.parser("benchmarks.smoothness", __doc__)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    model = description.of_settings()
    pairs, frames, steps = (PAIRS[:1], 8, 2) if arguments.short else (PAIRS, 48, model.steps)
    studio = Studio(renderer(), FRAMES_TO_CACHE)
    measured = {}
    for pair in pairs:
        spec = WalkSpec(
            prompts=pair,
            frames=frames,
            pacing="even",
            seed=arguments.seed,
            negative_prompt="",
            steps=steps,
            guidance=model.guidance,
            width=model.size,
            height=model.size,
            fps=12,
        )
        started = time.monotonic()
        measured[pair] = measure(studio, spec)
        print(f"{pair[0]} → {pair[1]}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    table = list(lines(spec, measured))
    print("\n".join(table))
    if not arguments.short:
        quality.write("smoothness", table)


if __name__ == "__main__":
    main()
