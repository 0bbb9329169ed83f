"""Folders with models that cannot render walks, each broken in a way of its own; `test_loading.py` has more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from momalisa.settings import BUNDLED_MODEL

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43350848\n"
"""What git leaves in the place of a large file that was not fetched."""


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
"""What breaks a model, by words of the sentence that says so."""


def broken(folder: Path, words: str) -> Path:
    """Make a copy of the embedded model and break it."""
    model = folder / "broken"
    shutil.copytree(BUNDLED_MODEL, model)
    WAYS[words](model)
    return model
