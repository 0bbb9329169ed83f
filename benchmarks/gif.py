"""The quality of our GIF, compared with ffmpeg's command line: `python -m benchmarks.gif`."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe, get_ffmpeg_version
from PIL import Image, ImageSequence

from benchmarks import quality
from benchmarks.peers import Pictures
from benchmarks.render import PAIRS
from momalisa import description
from momalisa.domain import path
from momalisa.domain.spec import WalkSpec, slug
from momalisa.settings import settings
from worker.media import encoders
from worker.media.metadata import Caption
from worker.rendering.pipeline import Renderer

FRAMES, FPS = 24, 12

FILTER = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
"""The filters that guides to good GIFs recommend, with our dithering."""


def main() -> None:
    """Render, encode with both, and write the table."""
    short = quality.parser("benchmarks.gif", __doc__).parse_args().short
    renderer = Renderer(settings().model, batch_size=settings().batch_size)
    lines = []
    with tempfile.TemporaryDirectory(prefix="momalisa-bench-") as name:
        for pair in PAIRS[:1] if short else PAIRS:
            spec = _spec(pair, 2 if short else description.of_settings().steps)
            pictures = renderer.render(spec, path.positions(FRAMES, spec.timing)).pictures
            ours, theirs = Path(name) / "ours.gif", Path(name) / "theirs.gif"
            encoders.write_gif(ours, lambda pictures=pictures: iter(pictures), FPS, Caption("", ""))  # type: ignore[misc]
            _encode_with_ffmpeg(pictures, Path(name), theirs)
            cells = [f"{_psnr(path, pictures):.2f} | {path.stat().st_size / 1000:.1f}" for path in (ours, theirs)]
            lines.append(f"| {slug(pair)} | {' | '.join(cells)} |")
    table = list(_table(lines))
    print("\n".join(table))
    if not short:
        quality.write("bench-gif", table)


def _spec(pair: tuple[str, str], steps: int) -> WalkSpec:
    model = description.of_settings()
    return WalkSpec(
        prompts=pair,
        frames=FRAMES,
        seed=7,
        negative_prompt="",
        steps=steps,
        guidance=model.guidance,
        width=model.size,
        height=model.size,
        fps=FPS,
    )


def _encode_with_ffmpeg(pictures: Pictures, folder: Path, gif: Path) -> None:
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03}.png")
    frames = ["-framerate", str(FPS), "-i", str(folder / "%03d.png")]
    subprocess.run([get_ffmpeg_exe(), "-y", "-v", "error", *frames, "-filter_complex", FILTER, gif], check=True)  # noqa: S603


def _psnr(gif: Path, pictures: Pictures) -> float:
    """Return the peak signal-to-noise ratio of a GIF to its source pictures, over all frames, in dB."""
    with Image.open(gif) as image:
        seen = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    error = np.mean((seen.astype(float) - pictures.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error))


def _table(lines: list[str]) -> Iterator[str]:
    yield f"`make bench-gif`: {FRAMES} frames, {FPS} a second; ffmpeg {get_ffmpeg_version()} with `{FILTER}`."
    yield ""
    yield "| walk | ours, dB | ours, kB | ffmpeg, dB | ffmpeg, kB |"
    yield "|---|---|---|---|---|"
    yield from lines


if __name__ == "__main__":
    main()
