"""From the frames of a walk to its artifacts, as a stream: the frames are never all in memory."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import imageio.v3 as iio
import numpy as np
from av.filter.context import FilterContext
from numpy.typing import NDArray

from momalisa.errors import ObjectCorruptError

Picture = NDArray[np.uint8]
"""Shape (height, width, 3), RGB."""

Frames = Callable[[], Iterator[Picture]]
"""Gives the frames of a walk in order, anew at each call."""

GIF_TICK = Fraction(1, 100)
"""The unit of a GIF's frame times, in seconds."""


def encode_png(picture: Picture) -> bytes:
    """Return a frame as a PNG file: lossless, so that artifacts lose nothing on the way."""
    return bytes(iio.imwrite("<bytes>", picture, extension=".png"))


def decode_png(data: bytes) -> Picture:
    """Return the picture in a PNG file.

    Raises:
        ObjectCorruptError: if it is damaged.
    """
    try:
        picture: Picture = iio.imread(data, extension=".png")
    except (OSError, SyntaxError, ValueError) as error:  # all of which Pillow raises
        raise ObjectCorruptError(f"A frame is no PNG file: {error}") from error
    return picture


def write_poster(path: Path, picture: Picture) -> None:
    """Write the still that stands for a walk, as WebP."""
    iio.imwrite(path, picture, extension=".webp", quality=90)


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files into a ZIP, uncompressed, since PNG is; the same files always give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def write_gif(path: Path, frames: Frames, fps: int) -> None:
    """Write an animated GIF that loops for ever, with one palette made from all frames.

    The palette and the dithering are ffmpeg's (palettegen, paletteuse). Frame times are whole hundredths of a
    second in a GIF; they are rounded one by one against the exact time, so that the animation does not drift.
    """
    first = next(frames())
    paint = _Paletteuse(first, _palette(frames))
    with av.open(str(path), "w", format="gif", options={"loop": "0"}) as container:
        stream = container.add_stream("gif", rate=fps)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "pal8"
        stream.codec_context.time_base = GIF_TICK
        for index, picture in enumerate(frames()):
            container.mux(stream.encode(paint(picture, round(index / fps / GIF_TICK))))
        container.mux(stream.encode(None))


def write_mp4(path: Path, frames: Frames, fps: int) -> None:
    """Write an MP4 that plays everywhere: H.264, yuv420p, even sides, its index first (fast start)."""
    height, width = (side - side % 2 for side in next(frames()).shape[:2])
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index, picture in enumerate(frames()):
            container.mux(stream.encode(_frame(picture[:height, :width], index, Fraction(1, fps))))
        container.mux(stream.encode(None))


def _palette(frames: Frames) -> av.VideoFrame:
    """Return the palette of 256 colours that suits all frames best, a picture of 16 × 16 pixels."""
    graph = av.filter.Graph()
    source = _source(graph, _frame(next(frames()), 0, GIF_TICK))
    palettegen = graph.add("palettegen", "stats_mode=full:reserve_transparent=0")
    source.link_to(palettegen)
    palettegen.link_to(graph.add("buffersink"))
    graph.configure()
    for index, picture in enumerate(frames()):
        source.push(_frame(picture, index, GIF_TICK))
    source.push(None)
    return graph.vpull()


class _Paletteuse:
    """Paints pictures in the colours of a palette, dithered."""

    def __init__(self, picture: Picture, palette: av.VideoFrame) -> None:
        self._graph = av.filter.Graph()
        self._source = _source(self._graph, _frame(picture, 0, GIF_TICK))
        colours = _source(self._graph, palette)
        paletteuse = self._graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")
        self._source.link_to(paletteuse, 0, 0)
        colours.link_to(paletteuse, 0, 1)
        paletteuse.link_to(self._graph.add("buffersink"))
        self._graph.configure()
        colours.push(palette)
        colours.push(None)

    def __call__(self, picture: Picture, time: int) -> av.VideoFrame:
        self._source.push(_frame(picture, time, GIF_TICK))
        return self._graph.vpull()


def _source(graph: av.filter.Graph, like: av.VideoFrame) -> FilterContext:
    """Return an entrance to a graph for frames that look like this one."""
    return graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=GIF_TICK)


def _frame(picture: Picture, time: int, unit: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame.pts, frame.time_base = time, unit
    return frame
