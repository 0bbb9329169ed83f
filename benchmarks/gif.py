"""The quality of our GIF, compared with ffmpeg's command line and with gifski: `python -m benchmarks.gif`."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe, get_ffmpeg_version
from PIL import Image, ImageSequence

from benchmarks import quality
from benchmarks.peers import Pictures
from benchmarks.smoothness import FRAMES_TO_CACHE, Studio
from momalisa import description
from momalisa.domain import path
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ROOT, settings
from worker.media import gif
from worker.media.metadata import Caption
from worker.rendering.loaded import renderer

FRAMES, FPS = 24, 12

WALKS = [
    ("a giraffe", "a battleship"),
    ("a rose", "a butterfly"),
    ("a strawberry", "a cucumber"),
    ("a lemon", "an eggplant"),
    ("an orange", "a dolphin"),
    ("a parrot", "a fire engine"),
    ("a sunflower", "a whale"),
    ("a carrot", "grapes"),
    ("a flamingo", "a crocodile"),
    ("a heart", "a tree"),
    ("a banana", "a blue car"),
    ("a tomato", "a frog", "a blueberry"),
    ("an apple", "a planet", "a full moon"),
    ("a fox", "a sailing boat", "a cactus"),
    ("a peacock", "a ladybug", "a lemon"),
    ("a rainbow", "a pumpkin", "a penguin"),
    ("a tulip", "a turtle", "a sapphire"),
    ("a tomato", "a lemon", "a frog", "a blueberry"),
    ("a strawberry", "a sunflower", "a whale", "a crocodile"),
    ("a rose", "a carrot", "a parrot", "grapes"),
]
"""Of two to four hues, since a GIF has one palette for all."""

BLOCK, LEVELS = 4, 15
"""A colour is wrong if the mean of so many pixels squared is off by more levels of 255 in a channel."""

FILTER = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
"""The filters that guides to good GIFs recommend."""

GIFSKI = (
    ROOT
    / ".venv/gifski-tools/node_modules/gifski/bin"
    / ("macos" if sys.platform == "darwin" else "debian")
    / "gifski"
)
"""Installed by the Makefile; a program under the AGPL, so it is only run here, and never shipped."""

QUALITIES = (90, 70)
"""Of gifski: its default, and the one with which its files are as large as ours."""


class Measured(NamedTuple):
    """What a GIF is like."""

    wrong: float
    """Share of blocks with a wrong colour."""
    psnr: float
    """Over all frames, in dB."""
    kilobytes: float


def main() -> None:
    """Render, encode with all, and write the table."""
    short = quality.parser("benchmarks.gif", __doc__).parse_args().short
    studio = Studio(renderer(), FRAMES_TO_CACHE)
    rows = dict[str, list[Measured]]()
    with tempfile.TemporaryDirectory(prefix="momalisa-bench-") as name:
        folder = Path(name)
        for prompts in WALKS[:1] if short else WALKS:
            spec = _spec(prompts, 2 if short else description.of_settings().steps)
            pictures = np.stack(studio.frames(spec, path.positions(FRAMES, spec.timing)))
            rows[" → ".join(prompts)] = [_measure(each, pictures) for each in _encode(pictures, folder)]
    table = list(_table(rows))
    print("\n".join(table))
    if not short:
        quality.write("bench-gif", table)


def _spec(prompts: tuple[str, ...], steps: int) -> WalkSpec:
    model = description.of_settings()
    return WalkSpec(
        prompts=prompts,
        frames=FRAMES,
        seed=7,
        negative_prompt="",
        steps=steps,
        guidance=model.guidance,
        width=model.size,
        height=model.size,
        fps=FPS,
    )


def _encode(pictures: Pictures, folder: Path) -> Iterator[Path]:
    """Yield the GIFs of a walk: ours, ffmpeg's, and gifski's of each quality."""
    sources = [folder / f"{index:03}.png" for index in range(len(pictures))]
    for picture, source in zip(pictures, sources, strict=True):
        Image.fromarray(picture).save(source)
    made = folder / "walk.gif"
    gif.write(made, pictures.__iter__, FPS, Caption("", ""), settings().gif_max_bytes)
    yield made
    frames = ["-framerate", str(FPS), "-i", str(folder / "%03d.png")]
    _run(get_ffmpeg_exe(), "-y", "-v", "error", *frames, "-filter_complex", FILTER, made)
    yield made
    for quality_asked in QUALITIES:
        _run(GIFSKI, "--quiet", "--fps", str(FPS), "--quality", str(quality_asked), "--output", made, *sources)
        yield made


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)  # noqa: S603


def _measure(gif: Path, pictures: Pictures) -> Measured:
    """Compare a GIF with its source pictures."""
    with Image.open(gif) as image:
        # gifski shows one picture for longer instead of two that hardly differ.
        seen = np.stack(
            [
                np.asarray(frame.convert("RGB"))
                for frame in ImageSequence.Iterator(image)
                for _ in range(round(frame.info["duration"] * FPS / 1000))
            ]
        )
    error = seen.astype(float) - pictures
    count, height, width, _ = error.shape
    blocks = error.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean(axis=(2, 4))
    return Measured(
        float((np.abs(blocks).max(axis=-1) > LEVELS).mean()),
        float(10 * np.log10(255**2 / np.mean(error**2))),
        gif.stat().st_size / 1000,
    )


def _table(rows: dict[str, list[Measured]]) -> Iterator[str]:
    gifski = subprocess.check_output([GIFSKI, "--version"], text=True).strip()  # noqa: S603
    ffmpeg = f"ffmpeg {get_ffmpeg_version()} with `{FILTER}`"
    yield f"`make bench-gif`: {FRAMES} frames, {FPS} a second; {ffmpeg}; {gifski}."
    yield ""
    names = ["ours", "ffmpeg", *(f"gifski {each}" for each in QUALITIES)]
    columns = list(zip(*rows.values(), strict=True))
    kilobytes = [fmean(each.kilobytes for each in column) for column in columns]
    lines = {
        "walk": [f"{name}: wrong, dB, kB" for name in names],
        "---": ["---"] * len(names),
        **{walk: [_cell([each]) for each in measured] for walk, measured in rows.items()},
        "**mean**": [_cell(column) for column in columns],
        "**most wrong colours**": [f"{max(each.wrong for each in column):.2%}" for column in columns],
        "**size ÷ ours**": [f"{each / kilobytes[0]:.2f}" for each in kilobytes],
    }
    for name, cells in lines.items():
        yield f"| {' | '.join([name, *cells])} |"


def _cell(measured: Sequence[Measured]) -> str:
    wrong, psnr, kilobytes = (fmean(column) for column in zip(*measured, strict=True))
    return f"{wrong:.2%}, {psnr:.2f}, {kilobytes:.1f}"


if __name__ == "__main__":
    main()
