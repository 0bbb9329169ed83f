"""Folders with models that cannot render walks, each with its own defect; `test_loading.py` has more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from momalisa.settings import BUNDLED_MODEL

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43350848\n"
"""What git stores instead of a large file that was not fetched (Git LFS)."""


def _has_the_class(name: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        index = json.loads((model / "model_index.json").read_text())
        (model / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))

    return change


def _has_a_pointer(model: Path) -> None:
    (model / "text_encoder" / "model.safetensors").write_text(POINTER)


WAYS: dict[str, Callable[[Path], None]] = {
    "StableDiffusionInpaintPipeline of": _has_the_class("StableDiffusionInpaintPipeline"),
    "KandinskyV22Pipeline of": _has_the_class("KandinskyV22Pipeline"),
    "is a pointer of Git LFS": _has_a_pointer,
}
"""The defects, by a part of the error message."""


def broken(folder: Path, words: str) -> Path:
    """Copy the bundled model, and apply a defect to the copy."""
    model = folder / "broken"
    shutil.copytree(BUNDLED_MODEL, model)
    WAYS[words](model)
    return model
