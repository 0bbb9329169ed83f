"""The revision of a model, which differs wherever its weights do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from momalisa.domain.spec import WalkSpec
from momalisa.settings import settings
from tests import tiny
from worker.rendering.pipeline import Renderer

MakeSpec = Callable[..., WalkSpec]


def _scales_latents_otherwise(model: Path) -> None:
    tiny.change(model / "vae/config.json", scaling_factor=0.5)


def _reads_otherwise(model: Path) -> None:
    """Change the merge order of the tokenizer."""
    file = model / "tokenizer/tokenizer.json"
    config = json.loads(file.read_text())
    config["model"]["merges"].reverse()
    file.write_text(json.dumps(config))


def _samples_otherwise(model: Path) -> None:
    tiny.change(model / "scheduler/scheduler_config.json", beta_end=0.013)


def _ends_otherwise(model: Path) -> None:
    """Change the last number of the largest tensor."""
    file = model / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    largest = max(tensors.values(), key=torch.numel)
    largest.view(-1)[-1] += 1
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change", [None, _scales_latents_otherwise, _reads_otherwise, _samples_otherwise, _ends_otherwise]
)
def test_the_revision_depends_on_everything_that_decides_pixels_but_not_on_the_folder(
    renderer: Renderer, tmp_path: Path, change: Callable[[Path], None] | None
) -> None:
    model = tmp_path / "copy"
    shutil.copytree(settings().model, model)
    if change:
        change(model)
    assert (Renderer(str(model), batch_size=1).revision == renderer.revision) == (change is None)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # inside some samplers
def test_rendering_does_not_change_the_revision(spec: MakeSpec) -> None:
    used = Renderer(settings().model, batch_size=1)
    used.render(spec(scheduler="euler", steps=1), [0.0])
    used.warnings(spec(prompts=("a " * 200, "b")))  # which uses the tokenizer with other settings
    assert used.revision == Renderer(settings().model, batch_size=1).revision
