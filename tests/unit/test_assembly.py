import json
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from momalisa.settings import ROOT
from tests.carrying_files import CAPTION, SPEC
from worker.media import card, contact_sheet, encoders, gif, lettering
from worker.media.encoders import Picture

MAX_BYTES = 8_000_000


def pictures(count: int, width: int = 96, height: int = 64) -> list[Picture]:
    """A coloured disc that moves over a gradient."""
    y, x = np.mgrid[:height, :width]
    found = []
    for index in range(count):
        picture = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 128)], axis=-1).astype(np.uint8)
        picture[(x - width * (index + 1) // (count + 1)) ** 2 + (y - height // 2) ** 2 < 200] = (220, 40, 60)
        found.append(picture)
    return found


def gif_frames(path: Path) -> Iterator[tuple[Picture, int]]:
    """Return each frame of a GIF with its time in milliseconds."""
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.asarray(frame.convert("RGB")), frame.info["duration"]


def image_flags(data: bytes) -> Iterator[int]:
    """Yield the flags of each image descriptor of a GIF with a global colour table only."""
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
    assert np.array_equal(encoders.decode_png(encoders.encode_png(picture, CAPTION)), picture)


@pytest.mark.parametrize("fps", [1, 7, 12, 24, 50])
def test_a_gif_shows_every_frame_on_time_and_loops_forever(tmp_path: Path, fps: int) -> None:
    originals = pictures(20)
    path = tmp_path / "walk.gif"
    gif.write(path, lambda: iter(originals), fps, CAPTION, MAX_BYTES)
    frames = list(gif_frames(path))
    assert len(frames) == 20
    assert min(psnr(seen, original) for (seen, _), original in zip(frames, originals, strict=True)) > 30
    starts = np.cumsum([0, *(duration for _, duration in frames)])[:-1]
    assert np.abs(starts - np.arange(20) * 1000 / fps).max() <= 5  # half a tick of 10 ms: no drift
    assert sum(duration for _, duration in frames) == pytest.approx(20 * 1000 / fps, abs=5)
    with Image.open(path) as image:
        assert image.info["loop"] == 0


def test_a_gif_of_more_than_50_frames_a_second_leaves_some_out_and_takes_as_long(tmp_path: Path) -> None:
    originals, path = pictures(60), tmp_path / "walk.gif"
    notes = gif.write(path, lambda: iter(originals), 60, CAPTION, MAX_BYTES)
    assert notes == [
        "The GIF shows 50 of 60 frames a second, the most that a GIF can; the MP4 and the WebP show all."
    ]
    frames = list(gif_frames(path))
    assert [duration for _, duration in frames] == [20] * 50
    shown = [originals[slot * 60 // 50] for slot in range(50)]
    assert min(psnr(seen, original) for (seen, _), original in zip(frames, shown, strict=True)) > 30


@pytest.mark.parametrize(
    ("share", "note"),
    [
        (0.6, "shows 12 of 24 frames a second, to have no more than"),
        (0.4, "shows 8 of 24 frames a second, to have no more than"),
        (0.32, "shows 8 of 24 frames a second in 64 colours, to have no more than"),
        (0.1, "in 64 colours, to have no more than"),
        (0.001, "a single frame of this size needs more than"),
    ],
)
def test_a_gif_that_is_too_large_gets_fewer_frames_and_then_fewer_colours(
    tmp_path: Path, share: float, note: str
) -> None:
    noise = np.random.default_rng(7).integers(0, 100, (48, 8, 12, 1), dtype=np.uint8)
    originals = [
        a + b.repeat(4, axis=0).repeat(4, axis=1) // 2 for a, b in zip(pictures(48, 48, 32), noise, strict=True)
    ]
    path = tmp_path / "walk.gif"
    assert gif.write(path, lambda: iter(originals), 24, CAPTION, MAX_BYTES) == []
    limit = round(share * path.stat().st_size)
    [said] = gif.write(path, lambda: iter(originals), 24, CAPTION, limit)
    assert note in said
    assert path.stat().st_size <= limit or share == 0.001
    assert sum(duration for _, duration in gif_frames(path)) == 2000


def test_a_gif_keeps_the_colours_of_all_frames_though_one_has_a_hue_of_its_own(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64] / 64
    reds = [np.stack([120 + 135 * x, 60 * y + index * 4, 40 + 60 * (1 - x) * y], axis=-1) for index in range(23)]
    blue = np.stack([20 + 60 * x, 90 + 100 * y, 140 + 110 * x], axis=-1)
    originals = [picture.astype(np.uint8) for picture in (*reds, blue)]
    gif.write(tmp_path / "walk.gif", lambda: iter(originals), 12, CAPTION, MAX_BYTES)
    seen = np.stack([picture for picture, _ in gif_frames(tmp_path / "walk.gif")])
    blocks = (seen - np.stack(originals).astype(float)).reshape(24, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    assert (np.abs(blocks).max(axis=-1) > 15).mean() <= 0.005


def test_a_gif_keeps_equal_frames(tmp_path: Path) -> None:
    still = pictures(1) * 6
    gif.write(tmp_path / "walk.gif", lambda: iter(still), 12, CAPTION, MAX_BYTES)
    assert len(list(gif_frames(tmp_path / "walk.gif"))) == 6


def test_the_palette_of_a_long_gif_is_sampled_evenly_in_little_memory() -> None:
    shown = (np.full((256, 512, 3), index, np.uint8) for index in range(256))
    tracemalloc.start()
    samples, count = gif._samples(lambda: shown)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    of_each = np.bincount(np.array(samples)[0, :, 0], minlength=256)
    assert (count, samples.width <= gif.SAMPLED_IN_ALL) == (256, True)
    assert of_each.min() > 0.9 * of_each.max()
    assert peak < 10e6


@pytest.mark.parametrize(("side", "pictures"), [(16, 4), (512, 16)])
def test_the_palette_of_a_gif_has_every_colour_of_a_still_picture(tmp_path: Path, side: int, pictures: int) -> None:
    colours = np.random.default_rng(7).integers(0, 256, (16, 14, 3), dtype=np.uint8)  # at most 224 of them
    picture = np.zeros((side, side, 3), np.uint8)
    picture[-16:, -14:] = colours
    path = tmp_path / "walk.gif"
    gif.write(path, lambda: iter([picture] * pictures), 12, CAPTION, MAX_BYTES)
    with Image.open(path) as image:
        shown = np.array(image.convert("RGB"))
    assert np.abs(shown.astype(int) - picture).max() <= 1  # palettegen rounds, on the way to Oklab and back


def test_a_gif_has_one_palette(tmp_path: Path) -> None:
    gif.write(tmp_path / "walk.gif", lambda: iter(pictures(5)), 12, CAPTION, MAX_BYTES)
    data = (tmp_path / "walk.gif").read_bytes()
    assert data[:6] == b"GIF89a"
    assert data[10] & 0x80  # a global colour table
    assert [flags & 0x80 for flags in image_flags(data)] == [0] * 5  # and no frame has its own


@pytest.mark.parametrize(("width", "height"), [(96, 64), (97, 65)])
def test_an_mp4_plays_everywhere(tmp_path: Path, width: int, height: int) -> None:
    originals = pictures(20, width, height)
    path = tmp_path / "walk.mp4"
    encoders.write_mp4(path, lambda: iter(originals), 12, CAPTION)
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
    encoders.write_poster(tmp_path / "walk.webp", picture, CAPTION)
    with Image.open(tmp_path / "walk.webp") as image:
        assert (image.format, image.size) == ("WEBP", (96, 64))
        assert psnr(np.asarray(image.convert("RGB")), picture) > 28


def chunks_of_webp(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk of a RIFF file."""
    assert (data[:4], data[8:12], struct.unpack("<I", data[4:8])) == (b"RIFF", b"WEBP", (len(data) - 8,))
    place = 12
    while place < len(data):
        (size,) = struct.unpack("<I", data[place + 4 : place + 8])
        yield data[place : place + 4], data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


@pytest.mark.parametrize("fps", [1, 12, 24, 60])
def test_a_webp_shows_every_frame_on_time_and_loops_forever(tmp_path: Path, fps: int) -> None:
    originals = pictures(20)
    path = tmp_path / "walk.webp"
    encoders.write_webp(path, lambda: iter(originals), fps, CAPTION)
    with Image.open(path) as image:
        assert (image.format, image.info["loop"]) == ("WEBP", 0)
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert len(frames) == 20
    assert min(psnr(seen, original) for seen, original in zip(frames, originals, strict=True)) > 28
    content = [content for name, content in chunks_of_webp(path.read_bytes()) if name == b"ANMF"]
    durations = [int.from_bytes(frame[12:15], "little") for frame in content]
    ends = np.cumsum(durations)
    assert np.abs(ends - np.arange(1, 21) * 1000 / fps).max() <= 0.5  # half a tick of 1 ms: no drift


@pytest.mark.parametrize(("count", "repeats"), [(1, 6), (3, 4)])
def test_a_webp_keeps_equal_frames(tmp_path: Path, count: int, repeats: int) -> None:
    held = [picture for picture in pictures(count) for _ in range(repeats)]
    notes = encoders.write_webp(tmp_path / "walk.webp", lambda: iter(held), 10, CAPTION)
    assert notes == ([] if count == 3 else ["All frames look the same, so the WebP is a still picture."])
    with Image.open(tmp_path / "walk.webp") as image:
        assert getattr(image, "n_frames", 1) == count
        seen = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert min(psnr(a, b) for a, b in zip(seen, held[::repeats], strict=True)) > 28
    content = [
        content for name, content in chunks_of_webp((tmp_path / "walk.webp").read_bytes()) if name == b"ANMF"
    ]
    assert [int.from_bytes(frame[12:15], "little") for frame in content] == ([400] * 3 if count == 3 else [])


def test_a_contact_sheet_shows_all_frames_and_their_labels(tmp_path: Path) -> None:
    originals = pictures(20)
    size = contact_sheet.write(
        tmp_path / "sheet.png", iter(originals), [f"{index / 19:.3f}" for index in range(20)], "", CAPTION
    )
    with Image.open(tmp_path / "sheet.png") as image:
        assert (image.format, image.size) == ("PNG", size)
        page = np.asarray(image)
    found = set()
    for index, original in enumerate(originals):
        places = np.argwhere((page[:-63, :-95] == original[0, 0]).all(axis=-1))
        found |= {
            index
            for y, x in places
            if np.array_equal(page[y : y + 64, x : x + 96], original)
            and page[y + 64 : y + 84, x : x + 40].min() < 100
        }
    assert found == set(range(20))


@pytest.mark.parametrize(("count", "width", "height"), [(2, 96, 64), (240, 64, 64), (3, 1024, 256), (7, 64, 512)])
def test_a_contact_sheet_fits_a_screen(tmp_path: Path, count: int, width: int, height: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    labels = ["0.123 a very long prompt that is too long to read at this size"] * count
    wide, high = contact_sheet.write(tmp_path / "sheet.png", (picture for _ in labels), labels, "", CAPTION)
    assert wide <= 2000
    assert 1 / 3 <= wide / high <= 3


@pytest.mark.parametrize(
    ("width", "height", "prompts"),
    [
        (96, 64, ("a giraffe", "a battleship")),
        (128, 64, ("a giraffe " * 40, "żyrafa", "🦒 " * 9)),
        (32, 512, ("قلعة", "猫")),
    ],
)
def test_a_card_shows_the_beginning_the_middle_and_the_end_with_the_prompts(
    tmp_path: Path, width: int, height: int, prompts: tuple[str, ...]
) -> None:
    colours = (200, 0, 0), (0, 160, 0), (0, 0, 200)
    shown = [np.full((height, width, 3), colour, np.uint8) for colour in colours]
    size = card.write(tmp_path / "card.jpg", shown, prompts, "Latent diffusion, 3 frames")
    assert (tmp_path / "card.jpg").stat().st_size < 300_000
    with Image.open(tmp_path / "card.jpg") as image:
        assert (image.format, image.size) == ("JPEG", size == card.SIZE and size)
        page = np.asarray(image).astype(int)
    places = [np.argwhere(np.abs(page[:460] - colour).max(axis=-1) < 8) for colour in colours]
    lefts = [place[:, 1].min() for place in places]
    assert lefts == sorted(lefts)
    high, wide = (int(side) for side in np.ptp(places[0], axis=0) + 1)
    assert wide / high == pytest.approx(width / height, rel=0.05)
    rows, columns = np.nonzero(page[465:550].min(axis=-1) < 100)  # the title
    assert len(rows) > 500
    assert columns.min() >= card.MARGIN - 5
    assert columns.max() <= card.SIZE[0] - card.MARGIN + 5


@pytest.mark.parametrize("face", [lettering.PLAIN, lettering.ITALIC], ids=["plain", "italic"])
@pytest.mark.parametrize(
    "text",
    [
        "猫",
        "モナ・リザ",
        "Щит и меч",
        "قلعة",
        "ภาษาไทย",
        "한국어",
        "हिन्दी",
        "Ωμέγα",
        "crème brûlée",
        "żółw",
        "🦒",
        "👩\u200d🚀",
    ],
)
def test_every_script_can_be_written(text: str, face: lettering.Face) -> None:
    def line(title: str) -> bytes:
        page = Image.new("RGB", (300, 40))
        lettering.write_line(page, (0, 0), title, 16, (255, 255, 255), 300, face)
        return page.tobytes()

    missing = "\U0010ffff" if text > "\uffff" else "\ufffe"
    assert line(text) not in {line("?" * len(text)), line(missing * len(text)), line("")}
    assert line(text) != line(text[:-1])


@pytest.mark.parametrize("character", ["x", "猫", "é", "นี้", "👩\u200d🚀", "👍🏽"])
def test_a_text_that_is_too_wide_is_cut_between_characters(character: str) -> None:
    cut = lettering.cut(character * 50, 16, 200)
    assert cut.endswith("…")
    assert len(cut) > 4
    assert cut[:-1] == character * (len(cut[:-1]) // len(character))


def test_the_longest_prompts_are_cut_without_much_memory() -> None:
    tracemalloc.start()
    cut = lettering.cut("a cat to " * 2222, 16, 480)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cut.startswith("a cat to a cat to ")
    assert peak < 2 * 2**20


def gif_comment(data: bytes) -> str:
    with Image.open(BytesIO(data)) as image:
        comment: bytes = image.info["comment"]
    return comment.decode("ascii")


def mp4_comment(data: bytes) -> str:
    """Return the comment in the tags of an MP4, parsed from its boxes."""
    for name in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        place = 0
        while data[place + 4 : place + 8] != name:
            place += struct.unpack(">I", data[place : place + 4])[0]
        (size,) = struct.unpack(">I", data[place : place + 4])
        data = data[place + 8 + (4 if name == b"meta" else 8 if name == b"data" else 0) : place + size]
    return data.decode()


def webp_description(data: bytes) -> str:
    [packet] = [content for name, content in chunks_of_webp(data) if name == b"XMP "]
    assert next(content for name, content in chunks_of_webp(data) if name == b"VP8X")[0] & 0b100
    found = ElementTree.fromstring(packet.decode()).find(  # noqa: S314 - it is our own
        ".//{http://purl.org/dc/elements/1.1/}description"
    )
    assert found is not None
    return "".join(found.itertext())


def png_comment(data: bytes) -> str:
    place, found = 8, {}
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size]) == (zlib.crc32(kind + content),)
        if kind == b"tEXt":
            keyword, _, text = content.partition(b"\0")
            found[keyword] = text.decode("latin-1")
        place += 12 + size
    return found[b"Comment"]


def test_every_artifact_contains_its_settings(tmp_path: Path) -> None:
    originals = pictures(20)
    gif.write(tmp_path / "walk.gif", lambda: iter(originals), 12, CAPTION, MAX_BYTES)
    encoders.write_mp4(tmp_path / "walk.mp4", lambda: iter(originals), 12, CAPTION)
    encoders.write_webp(tmp_path / "walk.webp", lambda: iter(originals), 12, CAPTION)
    encoders.write_poster(tmp_path / "poster.webp", originals[0], CAPTION)
    contact_sheet.write(tmp_path / "sheet.png", originals, [""] * 20, "", CAPTION)
    (tmp_path / "frame.png").write_bytes(encoders.encode_png(originals[0], CAPTION))
    readers = {".gif": gif_comment, ".mp4": mp4_comment, ".webp": webp_description, ".png": png_comment}
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 6
    for path in paths:
        details = json.loads(readers[path.suffix](path.read_bytes()))
        assert tuple(details["prompts"]) == SPEC.prompts
        assert (int(details["seed"]), details["model"]) == (SPEC.seed, "momalisa-mini")
        assert details["pinned"]["batches"][-1]["positions"][-1] == 1.0
        with Image.open(path) if path.suffix != ".mp4" else av.open(str(path)):
            pass  # it is still a valid file


def test_the_same_frames_give_the_same_files(tmp_path: Path) -> None:
    originals = pictures(5)
    for name in ("a", "b"):
        gif.write(tmp_path / f"{name}.gif", lambda: iter(originals), 12, CAPTION, MAX_BYTES)
        encoders.write_mp4(tmp_path / f"{name}.mp4", lambda: iter(originals), 12, CAPTION)
        encoders.write_webp(tmp_path / f"{name}.webp", lambda: iter(originals), 12, CAPTION)
        contact_sheet.write(tmp_path / f"{name}.png", originals, ["0"] * 5, "", CAPTION)
        card.write(tmp_path / f"{name}.jpg", originals[:3], ["a fox", "a boat"], "")
    for suffix in ("gif", "mp4", "webp", "png", "jpg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 10  # no temporary files are left


def test_a_zip_contains_its_files_and_is_reproducible(tmp_path: Path) -> None:
    files = {"walk.json": b"{}", "000.png": b"picture"}
    for name in ("a.zip", "b.zip"):
        encoders.write_zip(tmp_path / name, files.items())
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
from worker.media import contact_sheet, encoders, gif
from worker.media.metadata import Caption

about = Caption("a walk", "{}")
folder = Path(sys.argv[1])
generator = np.random.default_rng(7)
coarse = generator.integers(0, 256, (121, 16, 16, 3), dtype=np.uint8)
for index in range(120):
    picture = coarse[index].repeat(32, axis=0).repeat(32, axis=1)
    (folder / f"{index:03}.png").write_bytes(encoders.encode_png(picture, about))

def frames():
    for index in range(120):
        yield encoders.decode_png((folder / f"{index:03}.png").read_bytes())

gif.write(folder / "walk.gif", frames, 24, about, 10**9)
encoders.write_mp4(folder / "walk.mp4", frames, 24, about)
encoders.write_webp(folder / "walk.webp", frames, 24, about)
contact_sheet.write(folder / "sheet.png", frames(), [str(index) for index in range(120)], "", about)
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak.split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_a_long_walk_is_assembled_in_little_memory(tmp_path: Path) -> None:
    """120 frames of 512 × 512 would fill 94 MB as pixels; it takes 192 MB without them, with all libraries."""
    run = subprocess.run(
        [sys.executable, "-c", LONG_WALK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kibibytes = int(run.stdout)
    assert kibibytes * 1024 < 250_000_000
    assert len(list(gif_frames(tmp_path / "walk.gif"))) == 120
