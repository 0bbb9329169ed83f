"""The renderer with the embedded model, held against the stock pipeline of diffusers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from momalisa.errors import ModelError
from momalisa.settings import settings
from momalisa.spec import WalkSpec
from worker.renderer import Pictures, Renderer

BATCH_TOLERANCE = 2
"""Levels of 255 by which a pixel may change with the size of its batch: other kernels round otherwise."""

MakeSpec = Callable[..., WalkSpec]


def difference(a: Pictures, b: Pictures) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture(scope="module")
def stock() -> Any:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(settings().model, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("position", "prompt"), [(0.0, "a giraffe"), (1.0, "a battleship")])
@pytest.mark.parametrize("changes", [{}, {"guidance": 1.0}, {"negative_prompt": "red", "width": 160}])
def test_the_ends_are_what_the_stock_pipeline_renders(
    renderer: Renderer,
    stock: Any,
    spec: MakeSpec,
    position: float,
    prompt: str,
    changes: dict[str, object],
) -> None:
    ordered = spec(**changes)
    expected = stock(
        prompt,
        negative_prompt=ordered.negative_prompt,
        num_inference_steps=ordered.steps,
        guidance_scale=ordered.guidance,
        width=ordered.width,
        height=ordered.height,
        generator=torch.Generator("cpu").manual_seed(ordered.seed),
        output_type="np",
    ).images
    [picture] = renderer.render(ordered, [position])
    assert picture.shape == (ordered.height, ordered.width, 3)
    assert difference(picture, (expected[0] * 255).round().astype(np.uint8)) <= BATCH_TOLERANCE


def test_a_joint_is_its_prompt_and_nothing_else(renderer: Renderer, spec: MakeSpec) -> None:
    three = spec(prompts=("a cat", "a castle", "a rocket"))
    [joint] = renderer.render(three, [0.5])
    [end] = renderer.render(spec(prompts=("a cat", "a castle")), [1.0])
    assert difference(joint, end) == 0


def test_the_middle_is_neither_end(renderer: Renderer, spec: MakeSpec) -> None:
    start, middle, end = renderer.render(spec(), [0.0, 0.5, 1.0])
    assert difference(start, middle) > 50
    assert difference(middle, end) > 50


def test_the_same_batch_gives_the_same_pixels(renderer: Renderer, spec: MakeSpec) -> None:
    first = renderer.render(spec(), [0.0, 0.3, 1.0])
    second = renderer.render(spec(), [0.0, 0.3, 1.0])
    assert difference(first, second) == 0


def test_the_seed_decides_the_noise(renderer: Renderer, spec: MakeSpec) -> None:
    assert difference(renderer.render(spec(seed=1), [0.0]), renderer.render(spec(seed=2), [0.0])) > 50


def test_a_short_batch_is_padded_and_cut(renderer: Renderer, spec: MakeSpec) -> None:
    whole = renderer.render(spec(), [0.0, 0.2, 0.4, 0.6])
    short = renderer.render(spec(), [0.0, 0.2])
    assert short.shape == (2, 128, 128, 3)
    assert difference(whole[:2], short) <= BATCH_TOLERANCE


def test_a_chunk_that_was_cut_for_larger_batches_is_rendered_in_several(renderer: Renderer, spec: MakeSpec) -> None:
    positions = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    many = renderer.render(spec(), positions)
    assert many.shape[0] == 6
    assert difference(many[:4], renderer.render(spec(), positions[:4])) == 0
    assert difference(many[4:], renderer.render(spec(), positions[4:])) == 0


def test_each_prompt_is_encoded_once(renderer: Renderer, spec: MakeSpec) -> None:
    renderer.encode.cache_clear()
    for positions in ([0.0, 0.1, 0.2], [0.3, 0.9, 1.0]):
        renderer.render(spec(prompts=("a boat", "a train")), positions)
    assert renderer.encode.cache_info().misses == 2


def test_the_work_ends_within_a_step_when_the_check_says_so(renderer: Renderer, spec: MakeSpec) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        renderer.render(spec(steps=50), [0.0], check)
    assert calls == 3


def test_a_prompt_longer_than_the_model_reads_gets_a_warning(renderer: Renderer, spec: MakeSpec) -> None:
    long = " ".join(["a cat"] * 40)
    [warning] = renderer.warnings(spec(prompts=(long, "a dog")))
    assert "only the beginning" in warning
    assert "a cat a cat" in warning
    assert renderer.warnings(spec()) == []


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Renderer(str(tmp_path / "nowhere"), batch_size=1)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside those samplers
@pytest.mark.parametrize(
    ("sampler", "config"),
    [
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_a_sampler_that_draws_noise_at_each_step_is_refused(
    tmp_path: Path, sampler: str, config: dict[str, str]
) -> None:
    model = tmp_path / "noisy"
    shutil.copytree(settings().model, model)
    for path, changes in (
        (model / "model_index.json", {"scheduler": ["diffusers", sampler]}),
        (model / "scheduler" / "scheduler_config.json", config),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=sampler):
        Renderer(str(model), batch_size=1)
