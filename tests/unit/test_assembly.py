import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from momalisa.settings import ROOT
from worker import assembly
from worker.assembly import Picture


def pictures(count: int, width: int = 96, height: int = 64) -> list[Picture]:
    """A coloured disc that wanders over a gradient."""
    y, x = np.mgrid[:height, :width]
    found = []
    for index in range(count):
        picture = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 128)], axis=-1).astype(np.uint8)
        picture[(x - width * (index + 1) // (count + 1)) ** 2 + (y - height // 2) ** 2 < 200] = (220, 40, 60)
        found.append(picture)
    return found


def gif_frames(path: Path) -> Iterator[tuple[Picture, int]]:
    """Give each frame of a GIF with its time in milliseconds."""
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.asarray(frame.convert("RGB")), frame.info["duration"]


def image_flags(data: bytes) -> Iterator[int]:
    """Give the flags of each image descriptor of a GIF whose global colour table is the only one."""
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    while data[place] != ord(";"):
        if data[place] == ord(","):
            yield data[place + 9]
            place += 11  # the descriptor, and the code size of the pixels
        else:
            place += 2  # an extension and its label
        while data[place]:
            place += data[place] + 1
        place += 1


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_a_png_loses_nothing() -> None:
    [picture] = pictures(1)
    assert np.array_equal(assembly.decode_png(assembly.encode_png(picture)), picture)


@pytest.mark.parametrize("fps", [1, 12, 24, 50])
def test_a_gif_has_every_frame_at_its_time_and_loops_for_ever(tmp_path: Path, fps: int) -> None:
    originals = pictures(20)
    path = tmp_path / "walk.gif"
    assembly.write_gif(path, lambda: iter(originals), fps)
    frames = list(gif_frames(path))
    assert len(frames) == 20
    assert min(psnr(seen, original) for (seen, _), original in zip(frames, originals, strict=True)) > 30
    starts = np.cumsum([0, *(duration for _, duration in frames)])[:-1]
    assert np.abs(starts - np.arange(20) * 1000 / fps).max() <= 5  # half a tick of 10 ms: no drift
    with Image.open(path) as image:
        assert image.info["loop"] == 0


def test_a_gif_keeps_frames_that_look_the_same(tmp_path: Path) -> None:
    still = pictures(1) * 6
    assembly.write_gif(tmp_path / "walk.gif", lambda: iter(still), 12)
    assert len(list(gif_frames(tmp_path / "walk.gif"))) == 6


def test_a_gif_has_one_palette(tmp_path: Path) -> None:
    assembly.write_gif(tmp_path / "walk.gif", lambda: iter(pictures(5)), 12)
    data = (tmp_path / "walk.gif").read_bytes()
    assert data[:6] == b"GIF89a"
    assert data[10] & 0x80  # a global colour table
    assert [flags & 0x80 for flags in image_flags(data)] == [0] * 5  # and no frame has its own


@pytest.mark.parametrize(("width", "height"), [(96, 64), (97, 65)])
def test_an_mp4_plays_everywhere(tmp_path: Path, width: int, height: int) -> None:
    originals = pictures(20, width, height)
    path = tmp_path / "walk.mp4"
    assembly.write_mp4(path, lambda: iter(originals), 12)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (96, 64)
        assert stream.average_rate == 12
        frames = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in video.decode(stream)]
    assert len(frames) == 20
    assert min(psnr(seen, original[:64, :96]) for seen, original in zip(frames, originals, strict=True)) > 28
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # fast start


def test_a_poster_is_a_small_webp(tmp_path: Path) -> None:
    [picture] = pictures(1)
    assembly.write_poster(tmp_path / "walk.webp", picture)
    with Image.open(tmp_path / "walk.webp") as image:
        assert (image.format, image.size) == ("WEBP", (96, 64))
        assert psnr(np.asarray(image.convert("RGB")), picture) > 28


def test_a_zip_holds_its_files_and_is_always_the_same(tmp_path: Path) -> None:
    files = {"walk.json": b"{}", "000.png": b"picture"}
    for name in ("a.zip", "b.zip"):
        assembly.write_zip(tmp_path / name, files.items())
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "walk.json": b"{}",
            "000.png": b"picture",
        }
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


LONG_WALK = """
import sys
from pathlib import Path
import numpy as np
from worker import assembly

folder = Path(sys.argv[1])
generator = np.random.default_rng(7)
coarse = generator.integers(0, 256, (241, 16, 16, 3), dtype=np.uint8)
for index in range(240):
    picture = coarse[index].repeat(32, axis=0).repeat(32, axis=1)
    (folder / f"{index:03}.png").write_bytes(assembly.encode_png(picture))

def frames():
    for index in range(240):
        yield assembly.decode_png((folder / f"{index:03}.png").read_bytes())

assembly.write_gif(folder / "walk.gif", frames, 24)
assembly.write_mp4(folder / "walk.mp4", frames, 24)
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak.split()[1])
"""


def test_a_long_walk_is_stitched_in_little_memory(tmp_path: Path) -> None:
    """240 frames of 512 × 512 would fill 190 MB as pixels; with all libraries it stays under 500 MB."""
    run = subprocess.run(
        [sys.executable, "-c", LONG_WALK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kibibytes = int(run.stdout)
    assert kibibytes * 1024 < 500_000_000
    assert len(list(gif_frames(tmp_path / "walk.gif"))) == 240
