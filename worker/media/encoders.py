"""Writing the frames of a walk to its artifacts, as a stream: no writer holds all frames in memory.

The same frames and caption always give the same bytes.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from momalisa.errors import ObjectCorruptError
from worker.media.metadata import Caption

Picture = NDArray[np.uint8]
"""Shape (height, width, 3), RGB."""

Frames = Callable[[], Iterator[Picture]]
"""Returns a new iterator over the pictures of an animation, in the order in which they are shown."""

Latents = NDArray[np.float16]
"""Of one picture: what the decoder of its model made it of, shape (channels, …)."""

LATENTS = b"ltNT"
"""The chunk of a PNG file that holds them, as an .npy file of NumPy. By its small letters it is private, and other
programs skip it; by its last capital, one that changes the picture drops it."""

WEBP_TICK = Fraction(1, 1000)
"""The unit of a WebP's frame times, in seconds."""


def encode_png(picture: Picture, caption: Caption, latents: Latents | None = None) -> bytes:
    """Return a picture as a PNG file: lossless, so that artifacts are made from exact pixels.

    Latents add two bytes for each of their numbers to it: 32 KiB for Stable Diffusion 1.5 at 512 × 512 pixels,
    512 KiB for FLUX.1 at 1024 × 1024.
    """
    file, chunks = BytesIO(), png_text(caption)
    if latents is not None:
        chunks.add(LATENTS, _npy(latents))
    Image.fromarray(picture).save(file, "png", pnginfo=chunks)
    return file.getvalue()


def _npy(latents: Latents) -> bytes:
    file = BytesIO()
    np.save(file, latents, allow_pickle=False)
    return file.getvalue()


def read_latents(data: bytes) -> Latents:
    """Return the latents in a PNG file.

    Raises:
        ObjectCorruptError: if it is damaged, or has none.
    """
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            [found] = (content for name, content, *_ in image.private_chunks if name == LATENTS)  # type: ignore[attr-defined]
        latents: Latents = np.load(BytesIO(found), allow_pickle=False)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow and NumPy raise all of them
        raise ObjectCorruptError(f"A frame is not a valid PNG file with latents: {error}") from error
    return latents


def png_text(caption: Caption) -> PngInfo:
    """Return a caption as the text chunks of a PNG file, under the keywords that its specification registers."""
    text = PngInfo()
    text.add_itxt("Title", caption.title)
    text.add_text("Comment", caption.details)
    text.add_text("Software", "MoMALisa")
    return text


def decode_png(data: bytes) -> Picture:
    """Return the picture in a PNG file.

    Raises:
        ObjectCorruptError: if it is damaged.
    """
    try:
        picture: Picture = iio.imread(data, extension=".png")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all of them
        raise ObjectCorruptError(f"A frame is not a valid PNG file: {error}") from error
    return picture


def write_poster(path: Path, picture: Picture, caption: Caption) -> None:
    """Write the poster of a walk, as WebP."""
    Image.fromarray(picture).save(path, "webp", quality=90, xmp=caption.xmp())


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files into a ZIP, uncompressed, because PNG is already compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def write_mp4(path: Path, frames: Frames, fps: int, caption: Caption) -> None:
    """Write an MP4 that plays everywhere: H.264, yuv420p, even width and height, index first (fast start).

    It is in Rec. 709, limited range, and says so: players take untagged video for Rec. 601 or 709 by its height.
    """
    height, width = (side - side % 2 for side in next(frames()).shape[:2])
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata.update(title=caption.title, comment=caption.details)
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for index, picture in enumerate(frames()):
            container.mux(stream.encode(_rec_709(video_frame(picture[:height, :width], index, Fraction(1, fps)))))
        container.mux(stream.encode(None))


def enlarged(picture: Picture, size: tuple[int, int]) -> Picture:
    """Return a picture in another width and height, by Lanczos' filter."""
    found: Picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return found


def write_webp(path: Path, frames: Frames, fps: int, caption: Caption) -> list[str]:
    """Write an animated WebP that loops for ever: like a GIF, but in full colour and smaller.

    Returns:
        What it leaves out, in sentences for visitors.
    """
    bare = path.with_name(f"{path.name}.bare")
    options = {"quality": "85", "compression_level": "4", "loop": "0"}
    count = 0
    with av.open(str(bare), "w", format="webp", options={"loop": "0"}) as container:
        stream = container.add_stream("libwebp_anim", rate=fps, options=options)
        stream.height, stream.width = next(frames()).shape[:2]
        stream.pix_fmt = "bgra"  # the format of libwebp's animations
        stream.codec_context.time_base = WEBP_TICK
        for picture in frames():
            container.mux(stream.encode(video_frame(picture, round(count / fps / WEBP_TICK), WEBP_TICK)))
            count += 1
        container.mux(stream.encode(None))
    webp = bare.read_bytes()
    bare.unlink()
    if webp[12:16] == b"VP8X":
        path.write_bytes(_with_xmp(webp, caption.xmp(), round(count / fps / WEBP_TICK)))
        return []
    write_poster(path, next(frames()), caption)  # like the encoder, which writes no animation of equal pictures
    return ["All frames look the same, so the WebP is a still picture."]


def _with_xmp(webp: bytes, xmp: bytes, length: int) -> bytes:
    """Return an animated WebP with an XMP packet, and with a last frame that ends after `length` milliseconds.

    The encoder knows when each frame begins, and guesses when the last one ends. Source: RFC 9649.
    """
    chunks = dict[int, bytes]()
    place = 12
    while place < len(webp):
        size = 8 + int.from_bytes(webp[place + 4 : place + 8], "little")
        chunks[place] = webp[place : place + size + size % 2]
        place += size + size % 2
    frames = [place for place, chunk in chunks.items() if chunk.startswith(b"ANMF")]
    shown = sum(int.from_bytes(chunks[place][20:23], "little") for place in frames[:-1])
    for place, chunk in chunks.items():
        if chunk.startswith(b"VP8X"):
            chunks[place] = chunk[:8] + bytes([chunk[8] | 0b100]) + chunk[9:]
        if place == frames[-1]:
            chunks[place] = chunk[:20] + (length - shown).to_bytes(3, "little") + chunk[23:]
    body = b"WEBP" + b"".join(chunks.values())
    body += b"XMP " + len(xmp).to_bytes(4, "little") + xmp + b"\0" * (len(xmp) % 2)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _rec_709(frame: av.VideoFrame) -> av.VideoFrame:
    """Return an RGB frame as yuv420p in Rec. 709, limited range."""
    converted = frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        threads=1,
    )
    converted.pts, converted.time_base = frame.pts, frame.time_base
    return converted


def video_frame(picture: Picture, time: int, unit: Fraction) -> av.VideoFrame:
    """Return a picture as a frame for libav, shown at a time in some unit."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame.pts, frame.time_base = time, unit
    return frame
