"""Walks with models of several families through the whole system, each with a worker of its own."""

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from momalisa.client import Client
from momalisa.domain.spec import WalkSpec
from momalisa.local import stack
from momalisa.local.processes import Child, free_port
from momalisa.local.stack import LocalStack
from tests import tiny
from tests.conftest import until
from tests.pictures import BATCH_TOLERANCE, difference, stock_picture
from tests.tiny_parts import diffusers
from tests.tiny_pipelines import saved

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # inside samplers

MODELS = ("turbo", "stable_diffusion_3", "flux", "sana")
"""A UNet whose sampler draws noise, and transformers of three kinds."""

SHORT, LONG = "a cat", "a battleship with nine masts and a flag on every one of them"
"""Prompts of unequal length."""

FILE = "dream.safetensors"
"""A model that is one file, with a LoRA."""
LORA, WEIGHT = "ink.safetensors", 0.5


class Fleet(NamedTuple):
    """A system whose workers have different models."""

    url: str
    models: Path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    models = tmp_path_factory.mktemp("models")
    for name in MODELS:
        saved(name, models)
    folder = tiny.stable_diffusion(models / "dream")
    tiny.single_file(folder, models / FILE)
    tiny.lora(folder, models / LORA)
    variables = {"BATCH_SIZE": "2", "DTYPE": "float32", "IMAGE_SIZE": "64", "THREADS": "1"}
    variables["MODEL"] = str(models / MODELS[0])
    system = LocalStack(tmp_path_factory.mktemp("fleet"), port=free_port(), workers=1, variables=variables)
    with stack.started(system):
        own = {name: {"MODEL": str(models / name)} for name in MODELS[1:]}
        own["file"] = {"MODEL": str(models / FILE), "LORAS": f"{models / LORA}:{WEIGHT}"}
        others = [
            Child(
                name,
                [sys.executable, "-m", "worker", "render"],
                models / f"{name}.log",
                {**system.variables, **variables},
            )
            for name, variables in own.items()
        ]
        system.children.update({child.name: child for child in others})
        for child in others:
            child.start()
        yield Fleet(system.url, models)


def loaded(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)


def check(fleet: Fleet, name: str, stock: Any) -> WalkSpec:
    """Assert that a walk with a model begins and ends as the stock pipeline paints; returns its settings."""
    with Client(fleet.url) as client:
        until(lambda: name in str(client._request("GET", "/v1/models").json()), 120)
        *_, walk = client.walk([SHORT, LONG], model=name, frames=3, seed=7, steps=2, guidance=4)
        assert walk["status"] == "succeeded", walk["error"]
        ends = [client.download(str(walk["frames"][index]["url"])) for index in (0, -1)]
    spec = WalkSpec.model_validate(
        {"negative_prompt": "", "fps": 1, "prompts": (SHORT, LONG), "frames": 3, **walk["settings"]}
    )
    for prompt, end in zip((SHORT, LONG), ends, strict=True):
        picture = np.asarray(Image.open(BytesIO(end)))
        assert difference(picture, stock_picture(stock, spec, prompt, 7)) <= BATCH_TOLERANCE
    return spec


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_begins_and_ends_as_the_stock_pipeline_paints(fleet: Fleet, name: str) -> None:
    check(fleet, name, loaded(fleet.models / name))


def test_a_walk_with_a_single_file_and_a_lora_does_so_too(fleet: Fleet) -> None:
    stock = loaded(fleet.models / "dream")
    stock.load_lora_weights(fleet.models, weight_name=LORA, adapter_name="ink")
    stock.set_adapters("ink", WEIGHT)
    spec = check(fleet, f"dream+ink:{WEIGHT}", stock)
    inked = stock_picture(stock, spec, SHORT, 7)
    stock.disable_lora()
    assert difference(inked, stock_picture(stock, spec, SHORT, 7)) > 4 * BATCH_TOLERANCE


def test_long_and_weighted_prompts_are_read_or_the_walk_says_that_they_are_not(fleet: Fleet) -> None:
    prompts = ["a (cat:1.3), " * 20, f"a dog {'with a hat ' * 100}"]
    with Client(fleet.url) as client:
        until(lambda: "'flux'" in str(client._request("GET", "/v1/models").json()), 120)
        *_, turbo = client.walk(prompts, model="turbo", frames=3, steps=1)
        *_, flux = client.walk(prompts, model="flux", frames=3, steps=1)
    assert (turbo["status"], flux["status"]) == ("succeeded", "succeeded")
    brackets, cut_off = flux["warnings"]
    assert brackets.startswith("flux reads no weights: it takes the brackets in “a (cat:1.3), a (cat:1.3)")
    assert cut_off.startswith("The model reads a long prompt only up to “…")
    assert [each[:24] for each in turbo["warnings"]] == [cut_off[:24]]  # that dog's; the cats fill three windows
