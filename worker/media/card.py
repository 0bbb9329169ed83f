"""The card of a walk, for links in chats: its first, middle and last frame side by side, with its prompts."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from worker.media import lettering
from worker.media.encoders import Picture
from worker.media.lettering import ITALIC

SIZE = (1200, 630)
"""Pixels; the shape that chats and feeds show without cropping (1.91 to 1)."""

WALL, MOUNT, INK, SOFT, DOT = (233, 235, 233), (251, 251, 248), (23, 33, 43), (74, 86, 96), (197, 34, 31)
"""Colours of the website by day."""

MARGIN, TOP = 60, 44
PICTURE, GAP, MAT, FRAME = 320, 20, 34, 9
"""Pixels: the longer side of a picture, between two, of the mat around them, and of the frame."""

TITLE_TOP, FOOT_TOP = 478, 564
TITLES, FOOT = (58, 50, 43), 28
"""Font sizes; the largest of the title at which it fits is taken."""

QUALITY = 90


def write(path: Path, pictures: Sequence[Picture], prompts: Sequence[str], medium: str) -> tuple[int, int]:
    """Write a card as JPEG, which some chats need below 300 kB, and return its width and height in pixels.

    Args:
        path: of the file.
        pictures: three, all of the same size.
        prompts: the title.
        medium: a line under the title.
    """
    page = Image.new("RGB", SIZE, WALL)
    _hang(page, pictures)
    _write_title(page, prompts)
    lettering.write_line(page, (MARGIN, FOOT_TOP), medium, FOOT, SOFT, SIZE[0] // 2, ITALIC)
    name = "MoMALisa"
    left = SIZE[0] - MARGIN - round(lettering.length(name, FOOT, ITALIC))
    lettering.write_line(page, (left, FOOT_TOP), name, FOOT, INK, SIZE[0], ITALIC)
    middle = FOOT_TOP + FOOT * 2 // 3
    ImageDraw.Draw(page).circle((left - 20, middle), 7, DOT)
    page.save(path, "jpeg", quality=QUALITY, subsampling=0, optimize=True)
    return SIZE


def _hang(page: Image.Image, pictures: Sequence[Picture]) -> None:
    """Paste pictures side by side, in one frame in the middle."""
    height, width = pictures[0].shape[:2]
    scale = PICTURE / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    row = len(pictures) * (wide + GAP) - GAP
    left, top = (SIZE[0] - row) // 2, TOP + FRAME + MAT + (PICTURE - high) // 2
    draw = ImageDraw.Draw(page)
    for colour, around in ((INK, MAT + FRAME), (MOUNT, MAT)):
        draw.rectangle((left - around, top - around, left + row + around - 1, top + high + around - 1), colour)
    for place, picture in enumerate(pictures):
        enlarged = Image.fromarray(picture).resize((wide, high), Image.Resampling.LANCZOS)
        page.paste(enlarged, (left + place * (wide + GAP), top))


def _write_title(page: Image.Image, prompts: Sequence[str]) -> None:
    """Write prompts with arrows between them; of more than fit, only the first and the last, cut to half a line."""
    room = SIZE[0] - 2 * MARGIN
    for size in TITLES:
        if _title_length(prompts, size) <= room:
            break
    else:
        prompts = [prompts[0], *(["…"] if len(prompts) > 2 else []), prompts[-1]]  # noqa: PLR2004
        each = (room - 3 * size * 2) // 2
        prompts = [lettering.cut(prompt, size, each, ITALIC) for prompt in prompts]
    left = MARGIN
    for place, prompt in enumerate(prompts):
        if place:
            _draw_arrow(page, left + size // 2, TITLE_TOP + size * 3 // 4, size)
            left += size * 2
        lettering.write_line(page, (left, TITLE_TOP), prompt, size, INK, room, ITALIC)
        left += round(lettering.length(prompt, size, ITALIC))


def _title_length(prompts: Sequence[str], size: int) -> float:
    beginnings = (prompt[: SIZE[0]] for prompt in prompts)  # longer ones cannot fit, and take long to measure
    return sum(lettering.length(prompt, size, ITALIC) for prompt in beginnings) + (len(prompts) - 1) * size * 2


def _draw_arrow(page: Image.Image, left: int, middle: int, size: int) -> None:
    """Draw an arrow as long as the letters are high: the fonts have none that suits them."""
    right, head = left + size, size // 5
    draw = ImageDraw.Draw(page)
    draw.line((left, middle, right, middle), INK, 3)
    for way in (-head, head):
        draw.line((right - head, middle + way, right, middle), INK, 3)
