"""Folders with models that cannot render walks, each broken in a way of its own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from momalisa.settings import BUNDLED_MODEL

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43350848\n"
"""What git leaves in the place of a large file that was not fetched."""

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def _inpaints(model: Path) -> None:
    _change(model / "model_index.json", _class_name="StableDiffusionInpaintPipeline")


def _is_of_another_family(model: Path) -> None:
    _change(model / "model_index.json", _class_name="KandinskyV22Pipeline")


def _is_unknown(model: Path) -> None:
    _change(model / "model_index.json", _class_name="NoSuchPipeline")


def _draws_noise(model: Path) -> None:
    _change(model / "model_index.json", scheduler=["diffusers", "DPMSolverSDEScheduler"])


def _is_truncated(model: Path) -> None:
    whole = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def _has_a_pointer(model: Path) -> None:
    (model / "text_encoder" / "model.safetensors").write_text(POINTER)


def _has_no_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()


def _has_no_index(model: Path) -> None:
    (model / "model_index.json").unlink()


WAYS: dict[str, Callable[[Path], None]] = {
    "StableDiffusionInpaintPipeline of": _inpaints,
    "KandinskyV22Pipeline of": _is_of_another_family,
    "NoSuchPipeline": _is_unknown,
    "DPMSolverSDEScheduler": _draws_noise,
    "incomplete": _is_truncated,
    "header too large": _has_a_pointer,
    "diffusion_pytorch_model": _has_no_weights,
    "no file named model_index.json": _has_no_index,
}
"""What breaks a model, by words of the sentence that says so."""


def broken(folder: Path, words: str) -> Path:
    """Make a copy of the embedded model and break it."""
    model = folder / "broken"
    shutil.copytree(BUNDLED_MODEL, model)
    WAYS[words](model)
    return model


def _change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
