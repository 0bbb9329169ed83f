"""Writing text into pictures, in all scripts."""

import unicodedata
from bisect import bisect
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONTS = Path(__file__).parent / "fonts"
"""EB Garamond, as on the website; GNU Unifont, which has the letters of all scripts and emoji, but looks plain."""

JOINER = "\u200d"


@dataclass(frozen=True)
class Face:
    """A typeface. A text with a letter that it lacks is written in Unifont as a whole."""

    fonts: dict[str | None, frozenset[str]]
    """The letters of each of its files; None is the font that comes with Pillow."""


def _letters(*ranges: tuple[int, int]) -> frozenset[str]:
    return frozenset(map(chr, chain.from_iterable(range(first, last + 1) for first, last in ranges)))


PLAIN = Face({None: _letters((32, 126)) | {"·", "…"}})

ITALIC = Face(
    {
        "eb-garamond-latin-wght-italic": _letters((0x20, 0x7E), (0xA0, 0xFF), (0x2010, 0x2027), (0x20AC, 0x20AC))
        | {"ı", "Œ", "œ", "ʼ", "™"},
        "eb-garamond-latin-ext-wght-italic": _letters((0x100, 0x17F), (0x1E80, 0x1E85), (0x1EA0, 0x1EF9)),
    }
)


def write_line(
    page: Image.Image,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    width: int,
    face: Face = PLAIN,
) -> None:
    """Write a line of text whose top left is at `place`; text wider than `width` pixels is cut off."""
    draw = ImageDraw.Draw(page)
    left, top = place
    for part, font in _runs(cut(text, size, width, face), size, face):
        draw.text((left, top), part, colour, font)
        left += round(font.getlength(part))


def length(text: str, size: int, face: Face = PLAIN) -> float:
    """Return the width of a text in pixels."""
    return sum(font.getlength(part) for part, font in _runs(text, size, face))


def cut(text: str, size: int, width: int, face: Face = PLAIN) -> str:
    """Return a text, or its beginning and an ellipsis if it is wider than `width` pixels."""
    shown = text[: width + 1]  # one more than fits: ten long prompts have 20,000 characters
    if shown == text and length(text, size, face) <= width:
        return text
    beginnings = [beginning.rstrip() + "…" for beginning in accumulate(_characters(shown))]
    kept = bisect(beginnings, False, key=lambda beginning: length(beginning, size, face) > width)
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


def _runs(text: str, size: int, face: Face) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Return a text in parts, each with a font that has its letters."""

    def font(letter: str) -> str | None:
        if complete:
            return next(name for name, letters in face.fonts.items() if letter in letters)
        return "unifont" if letter <= "\uffff" else "unifont_upper"

    complete = set(text) <= frozenset[str]().union(*face.fonts.values())
    return [("".join(part), _font(name, size)) for name, part in groupby(text, font)]


@cache
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of ours, or Pillow's own."""
    if name is None:
        own = ImageFont.load_default(size)
        assert isinstance(own, ImageFont.FreeTypeFont)
        return own
    return ImageFont.truetype(FONTS / f"{name}.woff2", size)
