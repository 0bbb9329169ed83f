"""Samplers: all give about the same picture, and work with few steps."""

import json
import shutil
from collections.abc import Callable
from typing import get_args

import pytest

from momalisa.domain.spec import Scheduler, WalkSpec
from momalisa.settings import settings
from tests import tiny
from tests.pictures import difference, mean_difference
from worker.rendering.pipeline import Pictures, Renderer
from worker.rendering.samplers import make_sampler

MakeSpec = Callable[..., WalkSpec]


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # inside some samplers
def test_all_samplers_give_about_the_same_picture_and_leave_the_models_own_as_it_is(
    renderer: Renderer, spec: MakeSpec
) -> None:
    """With enough steps, they all solve the same equation."""

    def rendered(scheduler: Scheduler | None = None) -> Pictures:
        return renderer.render(spec(steps=20, scheduler=scheduler), [0.0], batch_size=1).pictures

    own = rendered()
    apart = {scheduler: mean_difference(rendered(scheduler), own) for scheduler in get_args(Scheduler)}
    assert max(apart.values()) < 12, apart
    assert difference(rendered(), own) == 0


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # inside some samplers
@pytest.mark.parametrize("steps", range(1, 5))
@pytest.mark.parametrize("sampler", [None, *get_args(Scheduler)])
def test_every_sampler_works_with_few_steps(
    renderer: Renderer, spec: MakeSpec, sampler: Scheduler | None, steps: int
) -> None:
    rendered = renderer.render(spec(scheduler=sampler, steps=steps, width=64, height=64), [0.0, 1.0])
    assert rendered.flags == (None, None)
    assert difference(*rendered.pictures) > 0


@pytest.fixture(scope="module")
def terse(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """The bundled model with PNDM, without settings of other samplers."""
    model = tmp_path_factory.mktemp("terse") / "model"
    shutil.copytree(settings().model, model)
    file = model / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text())
    names = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset", "timestep_spacing")
    kept = {name: config[name] for name in names}
    file.write_text(json.dumps({"_class_name": "PNDMScheduler", "skip_prk_steps": False, **kept}))
    tiny.change(model / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    return Renderer(str(model), batch_size=2, dtype="float32")


def test_ddim_does_not_clip_latents_unless_the_model_says_so(terse: Renderer) -> None:
    ddim = make_sampler(terse.own_scheduler, "ddim", 8)
    assert ddim.config.clip_sample is False
    clipping = type(ddim).from_config(ddim.config, clip_sample=True)
    assert make_sampler(clipping, "ddim", 8).config.clip_sample is True


@pytest.mark.parametrize("sampler", [None, "pndm"])
def test_a_model_with_pndm_renders_in_fewer_than_four_steps(
    terse: Renderer, spec: MakeSpec, sampler: Scheduler | None
) -> None:
    for steps in range(1, 5):
        rendered = terse.render(spec(scheduler=sampler, steps=steps, width=64, height=64), [0.0])
        assert rendered.flags == (None,)
    assert make_sampler(terse.own_scheduler, None, 4) is terse.own_scheduler
