"""Whether a model is admitted to interpolation: walks of the bundled model, and of one that is made worse."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from momalisa.domain.dense import Error
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ADMITTED, settings
from worker import admission
from worker.admission import Trial, dense_walk, report, trial
from worker.rendering import loaded
from worker.rendering.pipeline import Renderer, Rendering

Spec = Callable[..., WalkSpec]

DENSE: dict[str, Any] = {"exact": False, "frames": 64, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def small(renderer: Renderer) -> Renderer:
    renderer.warm_up(64)
    return renderer


def of(expected: float, *means: float) -> Trial:
    return Trial(("a cat", "a castle"), 96, [expected] * len(means), [Error(mean, 4 * mean) for mean in means])


@pytest.mark.parametrize(
    ("measured", "mistakes"),
    [
        (of(0.4, *[0.2] * 60), []),
        (of(0.1, *[0.3] * 60), []),  # no more than rounding
        (of(0.4, *[0.2] * 58, 0.9, 0.9), []),
        (of(0.4), ["every frame had to be denoised"]),
        (of(0.6, *[0.6] * 60), ["the mean error is 0.60"]),
        (of(2.5, *[0.1] * 58, 2.4, 2.4), ["above 2.40"]),
        (of(0.4, *[0.2] * 50, *[0.9] * 10), ["17% of the errors"]),
    ],
)
def test_a_walk_counts_against_a_model_if_errors_are_large_or_unexpected(
    measured: Trial, mistakes: list[str]
) -> None:
    assert len(measured.mistakes) == len(mistakes)
    assert all(expected in found for expected, found in zip(mistakes, measured.mistakes, strict=True))


def test_a_walk_in_one_process_has_each_frame_once_and_says_what_it_expects(small: Renderer, spec: Spec) -> None:
    kept: list[float] = []
    walk = dense_walk(small, spec(**DENSE), lambda position, *_: kept.append(position))
    assert sorted(kept) == sorted(set(kept)) == sorted(walk.pictures)
    assert len(kept) == 64
    assert walk.interpolated
    assert set(walk.expected) == set(walk.interpolated)
    assert set(walk.latents) == set(walk.pictures) - set(walk.interpolated)


def test_a_model_whose_frames_do_not_lie_between_their_neighbours_is_not_admitted(
    small: Renderer, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = small.decode

    def shifted(*arguments: Any, **named: Any) -> Rendering:
        found = decode(*arguments, **named)
        return Rendering(np.roll(found.pictures, 4, axis=2), found.flags, found.batch_size)

    monkeypatch.setattr(small, "decode", shifted)
    assert trial(small, spec(**DENSE)).mistakes


@pytest.mark.parametrize(("largest_mean", "admitted"), [(0.1, False), (5.0, True)])
def test_the_command_prints_what_to_set(
    small: Renderer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    largest_mean: float,
    admitted: bool,
) -> None:
    model = loaded.model().model_copy(update={"steps": 2, "size": 64})
    monkeypatch.setattr(loaded, "model", lambda: model)
    monkeypatch.setattr(loaded, "renderer", lambda: small)
    monkeypatch.setattr(admission, "PAIRS", admission.PAIRS[:1])
    monkeypatch.setattr(admission, "FRAMES", 64)
    monkeypatch.setattr(admission, "MEAN", largest_mean)
    monkeypatch.setattr(admission, "PERCENTILE_99", 5.0)
    monkeypatch.setattr(admission, "settings", lambda: settings().model_copy(update={"dense_revisions": ("none",)}))
    assert admission.main() == (0 if admitted else 1)
    shown = capsys.readouterr().out
    assert "a giraffe to a battleship" in shown
    assert (f"DENSE_REVISIONS={small.revision}\n" in shown) == admitted
    assert ("not admitted" in shown) != admitted


def test_a_revision_is_added_to_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, line = report([of(0.4, *[0.2] * 60)], "abc")
    assert line == f"DENSE_REVISIONS={','.join(ADMITTED)},abc"
    monkeypatch.setattr(admission, "settings", lambda: settings().model_copy(update={"dense_revisions": ("none",)}))
    *_, line = report([of(0.4, *[0.2] * 60)], "abc")
    assert line == "DENSE_REVISIONS=abc"
