"""The contact sheet: all frames of a walk on one page, with their positions."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from PIL import Image

from worker.media import lettering
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
    lettering.write_line(page, (MARGIN, MARGIN), caption.title, TITLE, INK, page_width)
    lettering.write_line(page, (MARGIN, MARGIN + TITLE + GAP), note, NOTE, FAINT, page_width)
    for index, (label, picture) in enumerate(zip(labels, chain([first], stream), strict=True)):
        left, above = MARGIN + index % columns * step[0], top + index // columns * step[1]
        page.paste(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), (left, above))
        lettering.write_line(page, (left, above + size[1] + GAP // 2), label, LABEL, INK, cell)
    page.save(path, "png", pnginfo=png_text(caption), compress_level=COMPRESSION)
    return page.size
