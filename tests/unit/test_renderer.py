"""The renderer with the embedded model, held against the stock pipeline of diffusers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from momalisa.errors import ModelError
from momalisa.settings import settings
from momalisa.spec import Scheduler, WalkSpec
from worker.renderer import Pictures, Renderer, lerp, slerp

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


def test_a_closed_walk_comes_back_to_its_first_stop(renderer: Renderer, spec: MakeSpec) -> None:
    start, end = renderer.render(spec(loop="closed"), [0.0, 1.0])
    assert difference(start, end) <= BATCH_TOLERANCE
    [middle] = renderer.render(spec(loop="closed"), [0.5])
    [other] = renderer.render(spec(), [1.0])
    assert difference(middle, other) == 0


def test_a_walk_that_travels_to_another_noise_ends_as_that_noise_does(renderer: Renderer, spec: MakeSpec) -> None:
    travelling = spec(seed=1, seed_to=2)
    start, middle, end = renderer.render(travelling, [0.0, 0.5, 1.0])
    for seed, position, picture in ((1, 0.0, start), (2, 1.0, end)):
        [still] = renderer.render(spec(seed=seed), [position])
        assert difference(picture, still) <= BATCH_TOLERANCE
    [still] = renderer.render(spec(seed=1), [0.5])
    assert difference(middle, still) > 50


def test_a_closed_walk_travels_there_and_back(renderer: Renderer, spec: MakeSpec) -> None:
    start, end = renderer.render(spec(seed=1, seed_to=2, loop="closed"), [0.0, 1.0])
    assert difference(start, end) <= BATCH_TOLERANCE


def test_slerp_goes_through_other_pictures_between_the_same_ends(renderer: Renderer, spec: MakeSpec) -> None:
    line = renderer.render(spec(), [0.0, 0.5, 1.0])
    arc = renderer.render(spec(interpolation="slerp"), [0.0, 0.5, 1.0])
    assert difference(line[0], arc[0]) == difference(line[2], arc[2]) == 0
    assert difference(line[1], arc[1]) > 10


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_slerp_keeps_the_length_of_noise(along: float, seed: int) -> None:
    generator = torch.Generator("cpu").manual_seed(seed)
    a, b = torch.randn((2, 1024), generator=generator)
    between = slerp(a, b, along).norm()
    assert min(a.norm(), b.norm()) * 0.97 <= between <= max(a.norm(), b.norm()) * 1.03


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_between_vectors_on_one_line_is_the_line(factor: float) -> None:
    a = torch.tensor([1.0, 2.0, -3.0])
    assert torch.allclose(slerp(a, factor * a, 0.25), lerp(a, factor * a, 0.25))


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # inside those samplers
@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_every_sampler_on_offer_makes_about_the_same_picture(
    renderer: Renderer, spec: MakeSpec, scheduler: Scheduler
) -> None:
    """Given steps enough, they all solve the same equation."""
    [own] = renderer.render(spec(steps=20), [0.0])
    [picture] = renderer.render(spec(steps=20, scheduler=scheduler), [0.0])
    assert np.abs(picture.astype(int) - own).mean() < 12
    [again] = renderer.render(spec(steps=20), [0.0])
    assert difference(own, again) == 0  # the model's own is not changed by it


def test_the_revision_tells_models_apart(renderer: Renderer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(settings().model, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "epsilon"}))
    assert Renderer(settings().model, batch_size=1).revision == renderer.revision
    assert Renderer(str(other), batch_size=1).revision != renderer.revision


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
