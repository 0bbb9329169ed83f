"""The files of a walk as players show them: Chromium and ffmpeg's command line."""

import base64
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserType, Page

from worker.media import encoders
from worker.media.encoders import Picture
from worker.media.metadata import Caption

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
    yield browser.new_page()
    browser.close()


def bars(height: int) -> Picture:
    """A picture of flat colours side by side."""
    picture: Picture = np.repeat(COLOURS, BAR, axis=0)[None].repeat(height, axis=0).astype(np.uint8)
    return picture


def middles(picture: Picture) -> NDArray[np.int64]:
    """Return the colour in the middle of each bar."""
    return picture[len(picture) // 2, BAR // 2 :: BAR].astype(np.int64)


def shown_by_chromium(path: Path, page: Page) -> NDArray[np.int64]:
    url = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    page.evaluate(PLAYER, url)
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
