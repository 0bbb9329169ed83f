"""The contact sheet: all frames of a walk on one page, with their positions."""

import math
import unicodedata
from bisect import bisect
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, chain, groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from worker.media.encoders import Picture, png_text
from worker.media.metadata import Caption

PAPER, INK, FAINT = (250, 249, 246), (28, 28, 30), (110, 110, 115)
"""Colours; FAINT on PAPER has a contrast of 5 to 1."""

MARGIN, GAP = 32, 12
"""Pixels around the pictures, and between them."""

ROW_WIDTH = 1920
"""Maximum width of a row of pictures in pixels; larger pictures are scaled down."""

MIN_TEXT_WIDTH = 480
"""Pixels."""

COMPRESSION = 4
"""Level of zlib: takes half the time of the default, for a file that is 2 % larger."""

TITLE, NOTE, LABEL = 26, 16, 14
"""Font sizes, in pixels."""

FONTS = Path(__file__).parent / "fonts"
"""GNU Unifont, which has the letters of all scripts, and emoji; it looks plain, so that others come first."""

PLAIN = {*map(chr, range(32, 127)), "·", "…"}
"""Characters that Pillow's own font has."""

JOINER = "\u200d"


def write(
    path: Path, pictures: Iterable[Picture], labels: Sequence[str], note: str, caption: Caption
) -> tuple[int, int]:
    """Write a contact sheet as PNG, in about the shape of a screen, and return its width and height in pixels.

    Args:
        path: of the file.
        pictures: in the order of the walk, all of the same size; iterated once.
        labels: the text under each picture.
        note: a line under the title.
        caption: the title, and the metadata of the file.
    """
    stream = iter(pictures)
    first = next(stream)
    height, width = first.shape[:2]
    columns = min(len(labels), math.ceil(math.sqrt(len(labels) * 4 / 3 * height / width)))
    rows = math.ceil(len(labels) / columns)
    cell = min(width, (ROW_WIDTH + GAP) // columns - GAP)
    size = (cell, max(1, round(height * cell / width)))
    step = (size[0] + GAP, size[1] + LABEL + 2 * GAP)
    top = MARGIN + TITLE + NOTE + 3 * GAP
    page_width = max(columns * step[0] - GAP, MIN_TEXT_WIDTH)
    page = Image.new("RGB", (page_width + 2 * MARGIN, top + rows * step[1] - GAP + MARGIN), PAPER)
    _write_line(page, (MARGIN, MARGIN), caption.title, TITLE, INK, page_width)
    _write_line(page, (MARGIN, MARGIN + TITLE + GAP), note, NOTE, FAINT, page_width)
    for index, (label, picture) in enumerate(zip(labels, chain([first], stream), strict=True)):
        left, above = MARGIN + index % columns * step[0], top + index // columns * step[1]
        page.paste(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), (left, above))
        _write_line(page, (left, above + size[1] + GAP // 2), label, LABEL, INK, cell)
    page.save(path, "png", pnginfo=png_text(caption), compress_level=COMPRESSION)
    return page.size


def _write_line(
    page: Image.Image, place: tuple[int, int], text: str, size: int, colour: tuple[int, int, int], width: int
) -> None:
    """Write a line of text whose top left is at `place`; text wider than `width` pixels is cut off."""
    draw = ImageDraw.Draw(page)
    left, top = place
    for part, font in _runs(_cut(text, size, width), size):
        draw.text((left, top), part, colour, font)
        left += round(font.getlength(part))


def _cut(text: str, size: int, width: int) -> str:
    """Return a text, or its beginning and an ellipsis if it is wider than `width` pixels."""

    def fits(text: str) -> bool:
        return sum(font.getlength(part) for part, font in _runs(text, size)) <= width

    if fits(text):
        return text
    shown = text[:width]  # which is more than fits: ten long prompts have 20,000 characters
    beginnings = [beginning.rstrip() + "…" for beginning in accumulate(_characters(shown))]
    kept = bisect(beginnings, False, key=lambda beginning: not fits(beginning))
    return beginnings[kept - 1] if kept else ""


def _characters(text: str) -> list[str]:
    """Return a text in parts that readers take for one character: letters with their marks, joined emoji."""
    parts = list[str]()
    for letter in text:
        category = unicodedata.category(letter)
        joined = category[0] == "M" or category in {"Cf", "Sk"}
        if parts and (joined or parts[-1].endswith(JOINER)):
            parts[-1] += letter
        else:
            parts.append(letter)
    return parts


def _runs(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Return a text in parts, each with a font that has its letters."""
    if set(text) <= PLAIN:
        return [(text, _font(None, size))]
    return [
        ("".join(part), _font(font, size))
        for font, part in groupby(text, lambda letter: "unifont" if letter <= "\uffff" else "unifont_upper")
    ]


@cache
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of ours, or Pillow's own."""
    if name is None:
        own = ImageFont.load_default(size)
        assert isinstance(own, ImageFont.FreeTypeFont)
        return own
    return ImageFont.truetype(FONTS / f"{name}.woff2", size)
