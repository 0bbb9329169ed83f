"""The renderer with the bundled model, compared with the stock pipeline of diffusers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPConfig, CLIPImageProcessor

from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.settings import ROOT, settings
from tests.pictures import BATCH_TOLERANCE, HALF_PRECISION_MEAN, difference, mean_difference
from worker.rendering.embeddings import lerp, slerp
from worker.rendering.layers import FEW_TOKENS, ShortAttention
from worker.rendering.pipeline import Renderer

HALF_PRECISION_MAX = 64
"""Levels of 255 by which a pixel may change with half precision."""

MakeSpec = Callable[..., WalkSpec]


@pytest.fixture(scope="module")
def precise() -> Renderer:
    return Renderer(settings().model, batch_size=4, dtype="float32")


@pytest.fixture(scope="module")
def half() -> Renderer:
    return Renderer(settings().model, batch_size=4, dtype="bfloat16")


@pytest.fixture(scope="module")
def stock() -> Any:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(settings().model, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("position", "prompt"), [(0.0, "a giraffe"), (1.0, "a battleship")])
@pytest.mark.parametrize("changes", [{}, {"guidance": 1.0}, {"negative_prompt": "red", "width": 160}])
def test_the_ends_equal_the_stock_pipeline(
    precise: Renderer,
    half: Renderer,
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
    wanted = (expected[0] * 255).round().astype(np.uint8)
    [picture] = precise.render(ordered, [position]).pictures
    assert picture.shape == (ordered.height, ordered.width, 3)
    assert difference(picture, wanted) <= BATCH_TOLERANCE
    [picture] = half.render(ordered, [position]).pictures
    assert mean_difference(picture, wanted) < HALF_PRECISION_MEAN
    assert difference(picture, wanted) <= HALF_PRECISION_MAX


@pytest.mark.parametrize("precision", ["precise", "half"])
def test_the_bundled_model_is_dense_in_both_its_formats_unless_that_is_not_admitted(
    precision: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = request.getfixturevalue(precision)
    bundled.warm_up(64)
    known = [bundled.dense]
    monkeypatch.setenv("DENSE_REVISIONS", "none")
    settings.cache_clear()
    known.append(bundled.dense)
    monkeypatch.undo()
    settings.cache_clear()
    assert (known, bundled.decodes) == ([True, False], True)


def test_an_inner_stop_is_exactly_its_prompt(renderer: Renderer, spec: MakeSpec) -> None:
    three = spec(prompts=("a cat", "a castle", "a rocket"))
    [joint] = renderer.render(three, [0.5]).pictures
    [end] = renderer.render(spec(prompts=("a cat", "a castle")), [1.0]).pictures
    assert difference(joint, end) == 0


def test_a_closed_walk_returns_to_its_first_stop(renderer: Renderer, spec: MakeSpec) -> None:
    start, end = renderer.render(spec(loop="closed"), [0.0, 1.0]).pictures
    assert difference(start, end) <= BATCH_TOLERANCE
    [middle] = renderer.render(spec(loop="closed"), [0.5]).pictures
    [other] = renderer.render(spec(), [1.0]).pictures
    assert difference(middle, other) == 0


def test_a_walk_with_a_second_seed_ends_with_its_noise(renderer: Renderer, spec: MakeSpec) -> None:
    travelling = spec(seed=1, seed_to=2)
    start, middle, end = renderer.render(travelling, [0.0, 0.5, 1.0]).pictures
    for seed, position, picture in ((1, 0.0, start), (2, 1.0, end)):
        [still] = renderer.render(spec(seed=seed), [position]).pictures
        assert difference(picture, still) <= BATCH_TOLERANCE
    [still] = renderer.render(spec(seed=1), [0.5]).pictures
    assert difference(middle, still) > 50


def test_the_seed_of_a_closed_walk_returns_to_its_start(renderer: Renderer, spec: MakeSpec) -> None:
    start, end = renderer.render(spec(seed=1, seed_to=2, loop="closed"), [0.0, 1.0]).pictures
    assert difference(start, end) <= BATCH_TOLERANCE


def test_each_stop_may_have_a_seed_and_a_negative_prompt(renderer: Renderer, spec: MakeSpec) -> None:
    stops = [("a cat", 1, ""), ("a castle", 2**64 - 1, "red"), ("a rocket", 3, "blue")]
    prompts, seeds, negatives = zip(*stops, strict=True)
    walk = spec(prompts=prompts, seeds=seeds, seed=1, negative_prompts=negatives)
    pictures = renderer.render(walk, [0.0, 0.25, 0.5, 1.0]).pictures
    for picture, (prompt, seed, negative) in zip(pictures[[0, 2, 3]], stops, strict=True):
        [still] = renderer.render(spec(prompts=(prompt, "b"), seed=seed, negative_prompt=negative), [0.0]).pictures
        assert difference(picture, still) <= BATCH_TOLERANCE
    for changes in ({"seeds": (1, 5, 3)}, {"negative_prompts": ("", "green", "blue")}):
        [other] = renderer.render(walk.model_copy(update=changes), [0.25]).pictures
        assert difference(pictures[1], other) > 10


def test_two_seeds_of_stops_are_the_same_as_a_seed_to_travel_to(renderer: Renderer, spec: MakeSpec) -> None:
    for loop in ("none", "closed"):
        short, long = spec(seed=1, seed_to=2, loop=loop), spec(seed=1, seeds=(1, 2), loop=loop)
        places = (0, 0.3, 0.5, 1)  # a closed walk says on its way back from which seed to which, and means the same
        assert [short.noise(place) for place in places] == [long.noise(place) for place in places]
    [one], [other] = (renderer.render(each, [0.3]).pictures for each in (short, long))
    assert difference(one, other) == 0


def test_slerp_gives_other_pictures_between_the_same_ends(renderer: Renderer, spec: MakeSpec) -> None:
    line = renderer.render(spec(), [0.0, 0.5, 1.0]).pictures
    arc = renderer.render(spec(interpolation="slerp"), [0.0, 0.5, 1.0]).pictures
    assert difference(line[0], arc[0]) == difference(line[2], arc[2]) == 0
    assert difference(line[1], arc[1]) > 10


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_slerp_keeps_the_length_of_noise(along: float, seed: int) -> None:
    generator = torch.Generator("cpu").manual_seed(seed)
    a, b = torch.randn((2, 1024), generator=generator)
    between = slerp(a, b, along).norm()
    assert min(a.norm(), b.norm()) * 0.97 <= between <= max(a.norm(), b.norm()) * 1.03


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_between_collinear_vectors_is_linear(factor: float) -> None:
    a = torch.tensor([1.0, 2.0, -3.0])
    assert torch.allclose(slerp(a, factor * a, 0.25), lerp(a, factor * a, 0.25))


def test_the_middle_is_neither_end(renderer: Renderer, spec: MakeSpec) -> None:
    start, middle, end = renderer.render(spec(), [0.0, 0.5, 1.0]).pictures
    assert difference(start, middle) > 50
    assert difference(middle, end) > 50


def test_the_same_batch_gives_the_same_pixels(renderer: Renderer, spec: MakeSpec) -> None:
    first = renderer.render(spec(), [0.0, 0.3, 1.0]).pictures
    second = renderer.render(spec(), [0.0, 0.3, 1.0]).pictures
    assert difference(first, second) == 0


def test_the_seed_decides_the_noise(renderer: Renderer, spec: MakeSpec) -> None:
    first, second = (renderer.render(spec(seed=seed), [0.0]).pictures for seed in (1, 2))
    assert difference(first, second) > 50


def test_a_short_batch_is_padded_and_cut(renderer: Renderer, spec: MakeSpec) -> None:
    whole = renderer.render(spec(), [0.0, 0.2, 0.4, 0.6]).pictures
    short = renderer.render(spec(), [0.0, 0.2]).pictures
    assert short.shape == (2, 128, 128, 3)
    assert difference(whole[:2], short) <= BATCH_TOLERANCE


def test_a_chunk_larger_than_the_batch_size_is_rendered_in_several_batches(
    renderer: Renderer, spec: MakeSpec
) -> None:
    positions = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    many = renderer.render(spec(), positions).pictures
    assert many.shape[0] == 6
    assert difference(many[:4], renderer.render(spec(), positions[:4]).pictures) == 0
    assert difference(many[4:], renderer.render(spec(), positions[4:]).pictures) == 0


def test_each_prompt_is_encoded_once(renderer: Renderer, spec: MakeSpec) -> None:
    renderer.encode.cache_clear()
    for positions in ([0.0, 0.1, 0.2], [0.3, 0.9, 1.0]):
        renderer.render(spec(prompts=("a boat", "a train")), positions)
    assert renderer.encode.cache_info().misses == 2


def test_the_check_ends_rendering_within_a_step(renderer: Renderer, spec: MakeSpec) -> None:
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
    long = "a cat " * 150
    assert renderer.warnings(spec(prompts=("a cat " * 120, "a dog"), negative_prompt="a dog")) == []
    [warning] = renderer.warnings(spec(prompts=(long, "a dog")))
    assert warning.startswith("The model reads a long prompt only up to “…")
    assert warning.endswith("a cat a cat”.")
    [warning] = renderer.warnings(spec(prompts=("a 🦒🏰" * 200, "a dog")))
    assert "�" not in warning
    assert "🏰" in warning


def with_checker(folder: Path, threshold: float) -> str:
    """The bundled model with a small safety checker, which flags everything above a similarity threshold."""
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "image_size": 32,
        "patch_size": 16,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(threshold)
    pipeline = StableDiffusionPipeline.from_pretrained(
        settings().model,
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
        low_cpu_mem_usage=False,
    )
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("threshold", "flag"), [(-2.0, Flag.UNSAFE), (2.0, None)])
def test_the_models_safety_checker_flags_frames(
    tmp_path: Path, spec: MakeSpec, threshold: float, flag: Flag | None
) -> None:
    renderer = Renderer(with_checker(tmp_path / "checked", threshold), batch_size=2)
    rendering = renderer.render(spec(steps=1), [0.0, 0.5, 1.0])
    assert rendering.flags == (flag, flag, flag)
    assert all((picture.max() == 0) == (flag is not None) for picture in rendering.pictures)
    renderer.warm_up(64)
    assert renderer.decodes == (flag is None), "of black pictures it is not known"
    latents = renderer._decoded[0].numpy()
    decoded = renderer.decode(spec(width=64, height=64), latents)
    assert decoded.flags == (flag,) * len(latents)
    assert all((picture.max() == 0) == (flag is not None) for picture in decoded.pictures)


def test_a_picture_that_is_not_a_number_is_flagged(
    renderer: Renderer, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = renderer.pipeline.vae.decode

    def overflow(*arguments: Any, **named: Any) -> Any:
        (images,) = decode(*arguments, **named)
        images[1] = float("nan")
        images[2] = -1
        return (images,)

    monkeypatch.setattr(renderer.pipeline.vae, "decode", overflow)
    rendering = renderer.render(spec(), [0.0, 0.3, 0.7, 1.0])
    assert rendering.flags == (None, Flag.BLACK, Flag.BLACK, None)


AGAIN = """
import hashlib
from momalisa.settings import settings
from momalisa.domain.spec import WalkSpec
from worker.rendering.pipeline import Renderer

numbers = {"frames": 2, "seed": 1, "steps": 2, "guidance": 4, "width": 128, "height": 128, "fps": 1}
spec = WalkSpec(prompts=("a", "b"), negative_prompt="", **numbers)
pictures = Renderer(settings().model, batch_size=2, dtype="bfloat16", threads=2).render(spec, [0.0, 1.0]).pictures
print(hashlib.sha256(pictures.tobytes()).hexdigest())
"""


def test_half_precision_gives_the_same_pixels_in_every_process() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", AGAIN], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another library for its threads elsewhere")
@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"THREADS": "1"}, "300000"), ({"GOMP_SPINCOUNT": "5"}, "5")]
)
def test_waiting_threads_spin_only_with_threads_set(given: dict[str, str], spins: str) -> None:
    ours = {"GOMP_SPINCOUNT", "THREADS"}
    variables = {**{name: value for name, value in os.environ.items() if name not in ours}, **given}
    printed = subprocess.run(
        [sys.executable, "-c", "import worker, torch"],
        cwd=ROOT,
        env={**variables, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in printed


@pytest.mark.parametrize("tokens", [1, FEW_TOKENS, FEW_TOKENS + 1])
@pytest.mark.parametrize("words", [None, 7])
def test_attention_is_the_same_for_few_tokens_and_for_many(tokens: int, words: int | None) -> None:
    torch.manual_seed(tokens)
    layer: Any = Attention(query_dim=24, heads=3, dim_head=8, cross_attention_dim=words and 16)
    picture = torch.randn(2, tokens, 24)
    text = None if words is None else torch.randn(2, words, 16)
    with torch.inference_mode():
        stock = layer(picture, encoder_hidden_states=text)
        layer.set_processor(ShortAttention())
        ours = layer(picture, encoder_hidden_states=text)
    torch.testing.assert_close(ours, stock)
