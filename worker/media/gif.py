"""Writing the frames of a walk as a GIF: its palette, its frame times and its size.

The palette is Pillow's: the colours that cover those of the frames best, then k-means. So a hue that only a few
frames have gets its share, which ffmpeg's palettegen denies it. ffmpeg's paletteuse dithers, by Sierra's method
of three rows: of those that it has, it keeps means best for its bytes (`benchmarks.gif`).
"""

import math
import shutil
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import av
import av.filter
import numpy as np
from av.filter.context import FilterContext
from PIL import Image

from worker.media.encoders import Frames, Picture, video_frame
from worker.media.metadata import Caption

TICK = Fraction(1, 100)
"""The unit of frame times, in seconds."""

SHORTEST, LONGEST = 2, 2**16 - 1
"""Ticks for which a frame is shown; browsers show one of less than two for ten."""

MAX_FPS = 50

MIN_FPS = 8
"""The fewest frames a second to which a large GIF is reduced before it loses colours."""

COLOURS, FEW_COLOURS = 256, 64
"""Of a GIF, and of one that is too large with few frames."""

FEW_COLOURS_SIZE = 0.7
"""About the size of a GIF with few colours, relative to the same one with all."""

SAMPLED_PIXELS, SAMPLED_IN_ALL = 1 << 14, 1 << 18
"""Pixels of each picture, and of all, that the palette is computed from: equally good, and faster."""

THINNING = 3
"""One of so many sampled pixels is kept when there are too many; with two, only some columns would be left."""

CONVERGED = 1000
"""k-means ends when fewer than one in so many pixels change their colour."""


class Version(NamedTuple):
    """How much of an animation a GIF shows."""

    fps: Fraction
    colours: int


def write(path: Path, frames: Frames, fps: int, caption: Caption, max_bytes: int) -> list[str]:
    """Write an animated GIF that loops for ever, with one palette for all frames.

    It takes as long as the animation, to the nearest tick. It shows fewer frames if there are more a second than a
    GIF can show, and fewer frames and colours if it would be larger than `max_bytes`.

    Returns:
        What it leaves out, in sentences for visitors.
    """
    samples, count = _samples(frames)
    palette = cache(partial(_palette, samples))
    versions = _versions(fps, count)
    made, size = versions[0], 0
    for version in versions:
        # Fewer frames differ more, so a GIF shrinks less than their number does.
        least = size * version.fps / made.fps * (FEW_COLOURS_SIZE if version.colours < made.colours else 1)
        if least <= max_bytes or version == versions[-1]:
            _encode(path, frames, _times(count, fps, version.fps), palette(version.colours), caption)
            made, size = version, path.stat().st_size
            if size <= max_bytes:
                break
    return _omissions(made, fps, size, max_bytes)


def _versions(fps: int, count: int) -> list[Version]:
    """Return what a GIF of `count` frames may show, from the most to the least, which is one frame."""
    most = min(fps, MAX_FPS)
    few = max(1, most // MIN_FPS)
    return [
        *(Version(Fraction(most, step), COLOURS) for step in range(1, few + 1)),
        *(Version(Fraction(most, step), FEW_COLOURS) for step in range(few, max(few, count) + 1)),
    ]


def _omissions(made: Version, fps: int, size: int, max_bytes: int) -> list[str]:
    limit = f"{max_bytes / 1e6:g} MB"
    if size > max_bytes:
        return [f"The GIF has {size / 1e6:.1f} MB: a single frame of this size needs more than {limit}."]
    if made == Version(Fraction(fps), COLOURS):
        return []
    shown = f"The GIF shows {float(made.fps):.3g} of {fps} frames a second"
    colours = "" if made.colours == COLOURS else f" in {made.colours} colours"
    fastest = made == Version(Fraction(MAX_FPS), COLOURS)
    why = "the most that a GIF can" if fastest else f"to have no more than {limit}"
    return [f"{shown}{colours}, {why}; the MP4 and the WebP show all."]


def _times(count: int, fps: int, shown_fps: Fraction) -> dict[int, range]:
    """Return when each frame that is shown is shown, in ticks, by its index.

    Times are rounded one by one against the exact ones, so that the animation does not drift.
    """
    end = round(count / fps / TICK)
    starts = [round(slot / shown_fps / TICK) for slot in range(count)]
    shown = [start for start in starts if start <= end - SHORTEST] or [0]
    return {
        int(slot * fps / shown_fps): range(start, until)
        for slot, (start, until) in enumerate(zip(shown, [*shown[1:], end], strict=True))
    }


def _encode(path: Path, frames: Frames, times: dict[int, range], palette: Picture, caption: Caption) -> None:
    """Write the frames at some indices, each for its time in ticks."""
    bare = path.with_name(f"{path.name}.bare")
    first = next(frames())
    paint = _Paletteuse(first, palette)
    *_, last = times.values()
    options = {"loop": "0", "final_delay": str(min(len(last), LONGEST))}
    with av.open(str(bare), "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=1 / TICK)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "pal8"
        stream.codec_context.time_base = TICK
        for index, picture in enumerate(frames()):
            if index in times:
                container.mux(stream.encode(paint(picture, times[index].start)))
        container.mux(stream.encode(None))
    _add_comment(bare, path, caption.details)
    bare.unlink()


def _add_comment(gif: Path, path: Path, comment: str) -> None:
    """Copy a GIF, with an ASCII comment inserted before its pictures (GIF89a, section 24)."""
    with gif.open("rb") as source, path.open("wb") as target:
        header = source.read(13)
        target.write(header + source.read(3 * 2 ** ((header[10] & 7) + 1)))  # with the global colour table
        target.write(source.read(19))  # the loop extension, which comes first
        text = comment.encode("ascii")
        blocks = (text[start : start + 255] for start in range(0, len(text), 255))
        target.write(b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0")
        shutil.copyfileobj(source, target)


def _samples(frames: Frames) -> tuple[Image.Image, int]:
    """Return a sample of the pixels of all frames as one row, and the number of frames."""
    samples = list[Picture]()
    step, total = 1, 0
    for index, picture in enumerate(frames()):
        samples.append(_sample(picture, index).reshape(-1, 3)[::step].copy())
        total += len(samples[-1])
        if total > THINNING * SAMPLED_IN_ALL:
            samples = [sample[::THINNING].copy() for sample in samples]  # a view would keep all of it in memory
            step, total = THINNING * step, sum(map(len, samples))
    pixels = np.concatenate(samples)
    return Image.fromarray(pixels[None, :: math.ceil(len(pixels) / SAMPLED_IN_ALL)].copy()), len(samples)


def _sample(picture: Picture, index: int) -> Picture:
    """Return every n-th pixel of every n-th row of a picture, with a different offset for each of n² pictures.

    That is a quarter of the pixels of a small picture, and about SAMPLED_PIXELS of a large one.
    """
    height, width = picture.shape[:2]
    step = max(2, math.isqrt(height * width // SAMPLED_PIXELS))
    return picture[index % step :: step, index // step % step :: step]


def _palette(samples: Image.Image, colours: int) -> Picture:
    """Return a palette of at most 256 colours, as a picture of 16 × 16 pixels."""
    small = samples.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=samples.width // CONVERGED)
    found = np.array(small.getpalette(), np.uint8).reshape(-1, 3)
    return np.resize(found, (256, 3)).reshape(16, 16, 3)  # repeated if there are fewer


class _Paletteuse:
    """Converts pictures to the colours of a palette, dithered."""

    def __init__(self, picture: Picture, palette: Picture) -> None:
        self._graph = av.filter.Graph()
        self._source = _source(self._graph, picture)
        colours = _source(self._graph, palette)
        paletteuse = self._graph.add("paletteuse", "dither=sierra3:diff_mode=rectangle")
        self._source.link_to(paletteuse, 0, 0)
        colours.link_to(paletteuse, 0, 1)
        paletteuse.link_to(self._graph.add("buffersink"))
        self._graph.configure()
        colours.push(video_frame(palette, 0, TICK))
        colours.push(None)

    def __call__(self, picture: Picture, time: int) -> av.VideoFrame:
        self._source.push(video_frame(picture, time, TICK))
        return self._graph.vpull()


def _source(graph: av.filter.Graph, like: Picture) -> FilterContext:
    """Return a source of a filter graph for pictures of this size."""
    height, width = like.shape[:2]
    return graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=TICK)
