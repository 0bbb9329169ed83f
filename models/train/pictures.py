"""The first step: emoji art as pictures on white, with their labels.

Source: Fluent Emoji by Microsoft (MIT), drawn in three dimensions and flat; labels and tags by emojibase (MIT).
"""

import io
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

SIZE = 128
"""Width and height of a picture, in pixels."""

Style = Literal["3d", "flat"]

ENDINGS: dict[Style, str] = {"3d": "webp", "flat": "svg"}

LEFT_OUT = {None, 2, 8, 9}
"""Emojibase's groups of letters, hair and skin, signs and flags, which are left out."""

VARIANT = re.compile(r".*:.*|.*(o’clock|-thirty)|(wo)?m[ae]n (?P<neutral>.+)")
"""Labels of near-duplicates; those of men and women only if there is a neutral person."""


@dataclass(frozen=True)
class Subject:
    """What a picture shows, and its style."""

    label: str
    tags: tuple[str, ...]
    style: Style


@dataclass(frozen=True)
class Gallery:
    """Pictures with their subjects."""

    images: NDArray[np.uint8]
    """Shape (pictures, 128, 128, 3), RGB."""
    cover: NDArray[np.uint8]
    """Coverage of each pixel by the thing, of 255: shape (pictures, 128, 128)."""
    subjects: tuple[Subject, ...]

    def save(self, folder: Path) -> None:
        """Write the gallery to three files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "subjects.json").write_text(json.dumps([asdict(subject) for subject in self.subjects]))
        np.save(folder / "images.npy", self.images)
        np.save(folder / "cover.npy", self.cover)

    @staticmethod
    def load(folder: Path) -> "Gallery":
        """Read what `save` wrote."""
        subjects = json.loads((folder / "subjects.json").read_text())
        return Gallery(
            np.load(folder / "images.npy"),
            np.load(folder / "cover.npy"),
            tuple(Subject(subject["label"], tuple(subject["tags"]), subject["style"]) for subject in subjects),
        )


def read(packages: Path) -> Gallery:
    """Read the art from a folder of npm packages."""
    found = art(packages)
    pictures, covers = zip(*(drawn(path) for path in found.values()), strict=True)
    return Gallery(np.stack(pictures), np.stack(covers), tuple(found))


def art(packages: Path) -> dict[Subject, Path]:
    """Return the file of each picture."""
    emojis = json.loads((packages / "emojibase-data/en/data.json").read_text())
    labels = {emoji["label"] for emoji in emojis}
    found = {}
    for emoji in emojis:
        if emoji.get("group") in LEFT_OUT or is_variant(emoji["label"], labels):
            continue
        tags = tuple(tag.lower() for tag in emoji.get("tags", []))
        for style in ENDINGS:
            if path := _find(packages, emoji["hexcode"].lower(), style):
                found[Subject(emoji["label"].lower(), tags, style)] = path
    return found


def is_variant(label: str, labels: Collection[str]) -> bool:
    """Return whether a picture is a near-duplicate of another one."""
    variant = VARIANT.fullmatch(label)
    if not variant or not variant["neutral"]:
        return bool(variant)
    return any(f"{who}{variant['neutral']}" in labels for who in ("", "person ", "people "))


def _find(packages: Path, code: str, style: Style) -> Path | None:
    assets = packages / f"@lobehub/fluent-emoji-{style}/assets"
    for name in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        path = assets / f"{name}.{ENDINGS[style]}"
        if path.exists():
            return path
    return None


def drawn(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a picture on white in the training size, and its coverage."""
    if path.suffix == ".svg":
        source: Any = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=2 * SIZE, height=2 * SIZE)))
    else:
        source = path
    image = Image.open(source).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return _small(ground.convert("RGB")), _small(image.getchannel("A"))


def _small(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
