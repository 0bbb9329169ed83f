"""Every family of models, by tiny pipelines with random weights, held against the stock pipeline of diffusers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch

from momalisa.description import describe
from momalisa.domain.families import FAMILIES as KNOWN
from momalisa.domain.model import Model
from momalisa.domain.spec import Scheduler, WalkSpec
from tests.pictures import BATCH_TOLERANCE, difference, mean_difference, stock_picture
from tests.tiny_parts import diffusers
from tests.tiny_pipelines import MAKERS, saved
from worker.rendering.families import FAMILIES
from worker.rendering.pipeline import Pictures, Renderer

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # inside samplers
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),  # inside Chroma
]

ROUNDED = 0.5
"""Mean difference in levels of 255 that is left by rounding latents to half precision."""

NEAR = 1e-4
"""So close to a stop that the picture is almost its own."""

SHORT, LONG = "a cat", "a very long battleship with nine masts and a flag on every one of them"

LONGER = "a very long and weathered battleship, with nine masts, and a flag, on every one of them, " * 3
"""More than CLIP reads in one window, or in two."""

CLIP = ("stable_diffusion", "stable_diffusion_xl", "lcm")
"""A model of each kind that reads long and weighted prompts."""

MakeSpec = Callable[..., WalkSpec]


class Subject(NamedTuple):
    """A tiny model, once in a renderer and once as it is, and its description."""

    renderer: Renderer
    stock: Any
    described: Model


@contextmanager
def recorded(pipeline: Any, denoiser: str) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the embeddings that a pipeline gives to its denoiser at the first step, by name."""
    found: dict[str, torch.Tensor] = {}

    def record(part: Any, inputs: Any, named: dict[str, Any]) -> None:
        for name, given in {**named, **(named.get("added_cond_kwargs") or {})}.items():
            if torch.is_tensor(given) and name.endswith(("hidden_states", "projections", "embeds")):
                found.setdefault(name, given.clone())

    handle = getattr(pipeline, denoiser).register_forward_pre_hook(record, with_kwargs=True)
    yield found
    handle.remove()


@pytest.fixture(scope="module", params=MAKERS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name = request.param
    model = saved(name, tmp_path_factory.mktemp("models"))
    stock = diffusers.DiffusionPipeline.from_pretrained(model, low_cpu_mem_usage=False)
    stock.set_progress_bar_config(disable=True)
    renderer = Renderer(model, batch_size=3, dtype="float32", device="cpu")
    return Subject(renderer, stock, describe(name, Path(model)))


@pytest.fixture(scope="module")
def walk(spec: MakeSpec) -> MakeSpec:
    """Make a small spec between prompts of unequal length."""

    def make(**changes: Any) -> WalkSpec:
        return spec(**{"prompts": (SHORT, LONG), "steps": 2, "width": 64, "height": 64, **changes})

    return make


def test_every_family_that_workers_render_is_described() -> None:
    assert KNOWN.keys() == FAMILIES.keys()


@pytest.mark.parametrize(
    "changes",
    [{"guidance": 7.5}, {"guidance": 7.5, "negative_prompt": "red", "steps": 4}, {"guidance": 0.0, "steps": 1}],
)
def test_the_ends_are_what_the_stock_pipeline_renders(
    subject: Subject, walk: MakeSpec, changes: dict[str, Any]
) -> None:
    ordered = walk(**changes)
    if subject.described.mistakes(ordered):
        ordered = walk(**{**changes, "steps": 2})
    pictures = subject.renderer.render(ordered, [0.0, 0.3, 1.0]).pictures
    assert difference(pictures, subject.renderer.render(ordered, [0.0, 0.3, 1.0]).pictures) == 0
    for prompt, picture in ((SHORT, pictures[0]), (LONG, pictures[2])):
        assert difference(picture, stock_picture(subject.stock, ordered, prompt, ordered.seed)) <= BATCH_TOLERANCE
    assert difference(pictures[0], pictures[2]) > 4 * BATCH_TOLERANCE


def test_the_walk_leaves_its_stops_without_a_jump(subject: Subject, walk: MakeSpec) -> None:
    start, near_start, middle = subject.renderer.render(walk(), [0.0, NEAR, 0.5]).pictures
    _, near_end, end = subject.renderer.render(walk(), [0.5, 1 - NEAR, 1.0]).pictures
    whole = mean_difference(start, end)
    assert mean_difference(start, near_start) < whole / 20
    assert mean_difference(end, near_end) < whole / 20
    assert mean_difference(start, middle) > whole / 20


def test_a_walk_between_seeds_draws_the_noise_of_each_at_its_end(subject: Subject, walk: MakeSpec) -> None:
    travelling = walk(prompts=(SHORT, SHORT), seed=1, seed_to=2)
    start, middle, near_end = subject.renderer.render(travelling, [0.0, 0.5, 1 - NEAR]).pictures
    [end] = subject.renderer.render(travelling, [1.0]).pictures
    for seed, picture in ((1, start), (2, end)):
        assert difference(picture, stock_picture(subject.stock, travelling, SHORT, seed)) <= BATCH_TOLERANCE
    whole = mean_difference(start, end)
    assert whole > 1
    assert mean_difference(start, middle) > whole / 20
    assert mean_difference(end, near_end) < whole / 20


def test_every_sampler_renders_in_however_few_steps_or_is_refused_before(subject: Subject, walk: MakeSpec) -> None:
    for sampler in (None, *get_args(Scheduler)):
        for steps in range(1, 5):
            ordered = walk(scheduler=sampler, steps=steps)
            if not subject.described.mistakes(ordered):
                rendered = subject.renderer.render(ordered, [0.0], batch_size=1)
                assert rendered.flags == (None,)
                assert rendered.pictures.std() > 10


def test_a_worker_warms_up_and_finds_that_it_decodes_as_the_stock_pipeline(
    subject: Subject, walk: MakeSpec
) -> None:
    renderer = subject.renderer
    renderer.warm_up(64)
    assert renderer.decodes
    rendered = renderer.render(walk(), [0.3, 0.7])
    exact = renderer._decoded[0].float().numpy()
    assert difference(renderer.decode(walk(), exact[:2]).pictures, rendered.pictures) == 0
    assert rendered.latents is not None
    decoded = renderer.decode(walk(), rendered.latents.astype(np.float32))
    assert mean_difference(decoded.pictures, rendered.pictures) < ROUNDED
    assert (decoded.flags, decoded.batch_size, decoded.latents) == (rendered.flags, rendered.batch_size, None)


def test_a_model_that_is_told_its_guidance_renders_in_half_precision(tmp_path: Path, walk: MakeSpec) -> None:
    renderer = Renderer(saved("lcm", tmp_path), batch_size=1, dtype="bfloat16", device="cpu")
    assert renderer.render(walk(), [0.0]).flags == (None,)


def test_a_model_whose_pictures_are_not_just_decoded_is_found_out(
    walk: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(saved("stable_diffusion_xl", tmp_path), batch_size=2, dtype="float32", device="cpu")

    class Watermark:
        def apply_watermark(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures + 0.1

    monkeypatch.setattr(renderer.pipeline, "watermark", Watermark())
    renderer.warm_up(64)
    assert not renderer.decodes
    assert renderer.render(walk(), [0.0]).latents is None
    renderer.pipeline.watermark = None
    renderer.warm_up(64)
    assert renderer.decodes


def test_more_steps_than_a_model_knows_are_refused_before(subject: Subject, walk: MakeSpec) -> None:
    ordered = walk(steps=60)
    if not subject.described.mistakes(ordered):
        assert subject.renderer.render(ordered, [0.0], batch_size=1).flags == (None,)


def test_a_short_prompt_without_weights_is_encoded_exactly_as_by_the_stock_pipeline(
    subject: Subject, walk: MakeSpec
) -> None:
    ordered = walk(negative_prompt="red", guidance=7.5)
    denoiser = subject.renderer.family.denoiser
    with recorded(subject.renderer.pipeline, denoiser) as ours, recorded(subject.stock, denoiser) as theirs:
        subject.renderer.render(ordered, [0.0], batch_size=1)
        stock_picture(subject.stock, ordered, SHORT, ordered.seed)
    assert ours.keys() == theirs.keys() != set()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("subject", CLIP, indirect=True, scope="module")
def test_a_weight_of_one_is_none_and_others_change_the_picture(subject: Subject, walk: MakeSpec) -> None:
    def rendered(prompt: str, **changes: Any) -> Pictures:
        return subject.renderer.render(walk(prompts=(prompt, "a dog"), **changes), [0.0], batch_size=1).pictures

    plain = rendered(SHORT)
    assert difference(rendered("a (cat:1.0)"), plain) == 0
    for weighted in ("a (cat:1.5)", "a [cat]"):
        assert difference(rendered(weighted), plain) > 0
    if subject.described.negative_above is not None:
        negative = rendered(SHORT, negative_prompt="a red house")
        assert difference(rendered(SHORT, negative_prompt="a (red:2) house"), negative) > 0


@pytest.mark.parametrize("subject", CLIP, indirect=True, scope="module")
def test_a_long_prompt_is_read_beyond_the_first_window(subject: Subject, walk: MakeSpec) -> None:
    first, last = subject.renderer.render(walk(prompts=(LONGER, f"{LONGER} a cat")), [0.0, 1.0]).pictures
    assert difference(first, last) > BATCH_TOLERANCE
    assert subject.renderer.warnings(walk(prompts=(LONGER, SHORT))) == []


@pytest.mark.parametrize("subject", CLIP, indirect=True, scope="module")
@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": (SHORT, LONGER)},
        {"prompts": (LONGER, "a red rose in the rain, " * 7)},
        {"prompts": (SHORT, LONG), "negative_prompt": LONGER},
    ],
)
def test_a_walk_between_prompts_of_unequal_windows_has_no_jump(
    subject: Subject, walk: MakeSpec, changes: dict[str, Any]
) -> None:
    ordered = walk(**changes)
    start, near_start, middle = subject.renderer.render(ordered, [0.0, NEAR, 0.5]).pictures
    _, near_end, end = subject.renderer.render(ordered, [0.5, 1 - NEAR, 1.0]).pictures
    whole = mean_difference(start, end)
    assert mean_difference(start, near_start) < whole / 20
    assert mean_difference(end, near_end) < whole / 20
    assert mean_difference(start, middle) > whole / 20
    if ordered.prompts[0] == SHORT and not ordered.negative_prompt:  # which the stock pipeline can render
        assert difference(start, stock_picture(subject.stock, ordered, SHORT, ordered.seed)) <= BATCH_TOLERANCE


def test_what_a_family_does_not_read_is_said(subject: Subject, walk: MakeSpec) -> None:
    weighted = subject.described.warnings(walk(prompts=("a (cat:1.3)", "a dog")))
    too_long = subject.renderer.warnings(walk(prompts=("a cat " * 600, "a dog")))
    assert any("reads no weights" in each for each in weighted) == (not subject.described.emphasis)
    assert len(too_long) == 1
    assert too_long[0].endswith(("a cat”.", "a”."))
