"""The files of a walk as players show them: Chromium, ffmpeg's command line, libav (PyAV) and Pillow."""

import base64
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from playwright.sync_api import BrowserType, Page

from momalisa.domain.path import positions, sequence
from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from tests.finished_walks import drawn
from worker.media import encoders, gif
from worker.media.encoders import Picture
from worker.media.metadata import Caption, walk_caption

COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 60), (12, 100, 180), (240, 200, 30), (128, 128, 128)]
)

BAR = 48
"""Width of each colour in pixels."""

PLAYER = """
async (url) => {
  document.body.style.margin = 0;
  const video = document.createElement("video");
  video.muted = true;
  video.src = url;
  document.body.replaceChildren(video);
  await new Promise((resolve, reject) => {
    video.onerror = () => reject(new Error(video.error.message));
    setTimeout(() => reject(new Error("No frame was shown within 30 s.")), 30_000);
    video.requestVideoFrameCallback(resolve);
  });
}
"""


@pytest.fixture(scope="module")
def player(browser_type: BrowserType, browser_type_launch_args: dict[str, Any]) -> Iterator[Page]:
    """A page of a browser that converts video as a GPU does.

    Without one, Chromium uses libyuv, whose coefficients of 8 bits are too small for the blue of Rec. 709: it is
    up to 12 levels off in every such video.
    """
    arguments = [*browser_type_launch_args["args"], "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    browser = browser_type.launch(**{**browser_type_launch_args, "args": arguments})
    page = browser.new_page()
    page.route("https://museum.example/", lambda route: route.fulfill(body=""))
    page.goto("https://museum.example/")  # a secure origin, which `ImageDecoder` asks for
    yield page
    browser.close()


def bars(height: int) -> Picture:
    """A picture of flat colours side by side."""
    picture: Picture = np.repeat(COLOURS, BAR, axis=0)[None].repeat(height, axis=0).astype(np.uint8)
    return picture


def middles(picture: Picture) -> NDArray[np.int64]:
    """Return the colour in the middle of each bar."""
    return picture[len(picture) // 2, BAR // 2 :: BAR].astype(np.int64)


def play(path: Path, page: Page) -> None:
    """Play an MP4, from its first frame on."""
    page.evaluate(PLAYER, f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}")


def shown_by_chromium(path: Path, page: Page) -> NDArray[np.int64]:
    play(path, page)
    with Image.open(BytesIO(page.locator("video").screenshot())) as image:
        return middles(np.asarray(image.convert("RGB")))


def shown_by_ffmpeg(path: Path, height: int) -> NDArray[np.int64]:
    output = ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    run = subprocess.run([get_ffmpeg_exe(), "-v", "error", "-i", path, *output], capture_output=True, check=True)
    return middles(np.frombuffer(run.stdout, np.uint8).reshape(height, -1, 3))


@pytest.mark.parametrize("height", [64, 144, 480, 576, 720, 1088])
def test_an_mp4_has_the_right_colours_in_every_player(tmp_path: Path, player: Page, height: int) -> None:
    path = tmp_path / "walk.mp4"
    encoders.write_mp4(path, lambda: iter([bars(height)] * 2), 12, Caption("", "{}"))
    assert np.abs(shown_by_chromium(path, player) - COLOURS).max() <= 3
    assert np.abs(shown_by_ffmpeg(path, height) - COLOURS).max() <= 3


@dataclass(frozen=True)
class Seen:
    """What a reader says of a file."""

    frames: int
    seconds: float
    colours: NDArray[np.float64]
    """In the middle of the first frame, and of the last."""
    details: str | None = None
    """The metadata; None if the reader shows none."""


def middle(picture: Picture) -> NDArray[np.float64]:
    """Return the mean of a few pixels in the middle of a picture, where it is flat."""
    y, x = picture.shape[0] // 2, picture.shape[1] // 2
    mean: NDArray[np.float64] = picture[y - 4 : y + 4, x - 4 : x + 4].mean(axis=(0, 1))
    return mean


def read_by_pillow(path: Path) -> Seen:
    with Image.open(path) as image:
        pictures = [
            (np.asarray(each.convert("RGB")), each.info["duration"]) for each in ImageSequence.Iterator(image)
        ]
        comment = image.info["comment"] if "comment" in image.info else image.info["xmp"]
    ends = np.array([middle(pictures[0][0]), middle(pictures[-1][0])])
    return Seen(len(pictures), sum(time for _, time in pictures) / 1000, ends, unescape(comment.decode()))


def read_by_libav(path: Path) -> Seen:
    with av.open(str(path)) as file:
        pictures = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in file.decode(video=0)]
        assert file.duration is not None
        seconds = file.duration / av.time_base
        return Seen(
            len(pictures), seconds, np.array([middle(pictures[0]), middle(pictures[-1])]), file.metadata["comment"]
        )


def read_by_ffmpeg(path: Path, size: tuple[int, int]) -> Seen:
    output = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    text = path.with_suffix(".txt")
    command = [get_ffmpeg_exe(), "-i", path, *output, "-f", "ffmetadata", "-y", text]
    run = subprocess.run(command, capture_output=True, check=True)
    pictures = np.frombuffer(run.stdout, np.uint8).reshape(-1, size[1], size[0], 3)
    hours, minutes, seconds = re.findall(r"time=(\d+):(\d+):([\d.]+)", run.stderr.decode())[-1]
    details = unescape(re.sub(r"\\(.)", r"\1", text.read_text()))
    time = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return Seen(len(pictures), time, np.array([middle(pictures[0]), middle(pictures[-1])]), details)


READ_IMAGE = """
async ([url, type]) => {
  const data = await (await fetch(url)).arrayBuffer();
  const decoder = new ImageDecoder({ data, type });
  await decoder.tracks.ready;
  await decoder.completed;
  const found = { frames: decoder.tracks.selectedTrack.frameCount, microseconds: 0, colours: [] };
  for (let frameIndex = 0; frameIndex < found.frames; frameIndex++) {
    const { image } = await decoder.decode({ frameIndex });
    found.microseconds += image.duration;
    const context = new OffscreenCanvas(8, 8).getContext("2d");
    context.drawImage(image, 4 - image.displayWidth / 2, 4 - image.displayHeight / 2);
    const pixels = [...context.getImageData(0, 0, 8, 8).data];
    const sum = (channel) => pixels.reduce((found, level, place) => found + (place % 4 === channel && level), 0);
    found.colours.push([0, 1, 2].map((channel) => sum(channel) / 64));
    image.close();
  }
  return found;
}
"""


def read_by_chromium(path: Path, player: Page) -> Seen:
    """Return what Chromium shows of a GIF or a WebP."""
    kind = f"image/{path.suffix[1:]}"
    url = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    found = player.evaluate(READ_IMAGE, [url, kind])
    return Seen(found["frames"], found["microseconds"] / 1e6, np.array(found["colours"])[[0, -1]])


WALKS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("a cat", "a castle"), {"width": 128, "height": 128, "fps": 12}),
    (("猫", "犬"), {"width": 64, "height": 96, "fps": 60, "loop": "pingpong", "hold": 3}),
    (("قلعة", "Щит и меч", "हिन्दी"), {"width": 200, "height": 120, "fps": 24, "loop": "closed", "hold": 2}),
    (("a 👩\u200d🚀", 'b & <c> "d"'), {"width": 72, "height": 64, "fps": 7, "hold": 5}),
    (("a", "b"), {"width": 64, "height": 720, "fps": 50, "loop": "pingpong"}),
]
"""Of several sizes, frames a second, loops, holds and scripts."""


@pytest.mark.parametrize(("prompts", "settings"), WALKS, ids=[str(number) for number in range(len(WALKS))])
def test_all_readers_see_the_same_in_the_files_of_a_walk(
    tmp_path: Path, player: Page, spec: Callable[..., WalkSpec], prompts: tuple[str, ...], settings: dict[str, Any]
) -> None:
    walk = spec(prompts=prompts, frames=9, **settings)
    places = positions(walk.frames, walk.timing)
    rendered = [drawn(walk, place) for place in places]
    order = sequence(places, walk.timing.legs, hold=walk.hold, loop=walk.loop)
    caption = walk_caption(walk, "momalisa-mini", Pins(batches=[Batch(size=len(places), positions=places)]))

    def frames() -> Iterator[Picture]:
        return (rendered[index] for index in order)

    files = {kind: tmp_path / f"walk.{kind}" for kind in ("gif", "mp4", "webp")}
    gif.write(files["gif"], frames, walk.fps, caption, 8_000_000)
    encoders.write_mp4(files["mp4"], frames, walk.fps, caption)
    encoders.write_webp(files["webp"], frames, walk.fps, caption)

    size = (walk.width, walk.height)
    seen = {
        ("gif", "Pillow"): read_by_pillow(files["gif"]),
        ("webp", "Pillow"): read_by_pillow(files["webp"]),
        ("gif", "libav"): read_by_libav(files["gif"]),
        ("mp4", "libav"): read_by_libav(files["mp4"]),
        **{(kind, "ffmpeg"): read_by_ffmpeg(path, size) for kind, path in files.items()},
        ("gif", "Chromium"): read_by_chromium(files["gif"], player),
        ("webp", "Chromium"): read_by_chromium(files["webp"], player),
    }
    play(files["mp4"], player)
    seconds = len(order) / walk.fps
    assert player.evaluate("document.querySelector('video').duration") == pytest.approx(seconds, abs=0.001)
    expected = {
        "gif": len(order) if walk.fps <= 50 else math.floor(seconds * 50),
        "mp4": len(order),
        "webp": len([*groupby(order)]),  # which shows equal frames as one
    }
    last = dict.fromkeys(expected, order[-1])
    last["gif"] = order[int((expected["gif"] - 1) * max(walk.fps / 50, 1))]
    for (kind, reader), file in seen.items():
        ends = np.array([middle(rendered[order[0]]), middle(rendered[last[kind]])])
        assert file.frames == expected[kind], (kind, reader)
        assert file.seconds == pytest.approx(seconds, abs=0.02), (kind, reader)  # two ticks of a GIF
        assert np.abs(file.colours - ends).max() <= 6, (kind, reader)
        assert file.details is None or caption.details in file.details, (kind, reader)
