"""The files of a walk that carry its settings, without rendering it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from worker.media import contact_sheet, encoders, gif
from worker.media.encoders import Picture
from worker.media.metadata import walk_caption, walk_request

SPEC = WalkSpec(
    prompts=('a <giraffe> & "co"', "ein Schlachtschiff für Österreich, 戦艦 🦒"),
    frames=40,
    seed=2**64 - 1,
    seeds=(2**64 - 1, 8),
    negative_prompt="",
    steps=3,
    guidance=4,
    width=96,
    height=64,
    fps=12,
)
PINS = Pins(batches=[Batch(size=40, positions=[index / 39 for index in range(40)])])
BODY = walk_request(SPEC, "momalisa-mini", PINS)
CAPTION = walk_caption(SPEC, "momalisa-mini", PINS)
SHOWN = [np.full((64, 96, 3), level, np.uint8) for level in (0, 99, 200)]


def frames() -> Iterator[Picture]:
    return iter(SHOWN)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "walk.gif": lambda path: gif.write(path, frames, 12, CAPTION, 8_000_000),
    "walk.mp4": lambda path: encoders.write_mp4(path, frames, 12, CAPTION),
    "walk.webp": lambda path: encoders.write_webp(path, frames, 12, CAPTION),
    "poster.webp": lambda path: encoders.write_poster(path, SHOWN[0], CAPTION),
    "sheet.png": lambda path: contact_sheet.write(path, iter(SHOWN), ["", "", ""], "", CAPTION),
    "walk.zip": lambda path: encoders.write_zip(path, [("walk.json", json.dumps(BODY).encode()), ("0.png", b"")]),
    "walk.json": lambda path: path.write_text(json.dumps(BODY)),
}
