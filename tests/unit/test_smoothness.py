"""The metrics of the smoothness benchmark."""

import numpy as np
import pytest

from benchmarks import smoothness
from worker.media.encoders import Picture


def grey(level: int) -> Picture:
    return np.full((32, 32, 3), level, np.uint8)


def noise(seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 1, 1, 1], 0), ([0, 0, 0, 1], 0.75), ([1, 3], 0.25), ([5], 0)]
)
def test_gini_distinguishes_equal_from_unequal_steps(values: list[float], expected: float) -> None:
    assert smoothness.gini(values) == pytest.approx(expected)


def test_equal_steps_are_perfectly_smooth() -> None:
    found = smoothness.figures(
        [grey(level) for level in (0, 50, 100, 150)], lambda a, b: abs(int(a.mean() - b.mean()))
    )
    assert (found.smoothness, found.largest, found.detour) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("metric", smoothness.METRICS.values())
def test_the_metrics_are_0_for_the_same_picture_and_grow(metric: smoothness.Metric) -> None:
    assert metric(noise(1), noise(1)) == pytest.approx(0, abs=1e-9)
    near = np.clip(noise(1).astype(int) + 10, 0, 255).astype(np.uint8)
    assert 0 < metric(noise(1), near) < metric(noise(1), noise(2))


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_cielab_matches_tabulated_values(colour: tuple[int, ...], expected: tuple[float, ...]) -> None:
    picture = np.full((1, 1, 3), colour, np.uint8)
    assert smoothness.lab(picture)[0, 0] == pytest.approx(expected, abs=0.02)


def test_the_oracle_picks_different_pictures_at_equal_distances() -> None:
    dense = [grey(level) for level in (0, 1, 2, 3, 4, 100, 120, 140, 200)]
    picked = smoothness.by_arc_length(dense, 5, lambda a, b: float(abs(int(a.mean()) - int(b.mean()))))
    assert [int(picture.mean()) for picture in picked] == [0, 4, 100, 140, 200]
