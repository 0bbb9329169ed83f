"""The other ways to fill in frames, to which the benchmark of dense walks compares ours."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import filling
from benchmarks.peers import Pictures
from momalisa.domain.spec import WalkSpec
from worker.rendering.pipeline import Renderer


def moving(frames: int) -> Pictures:
    """Return pictures of a spot that moves at a constant speed."""
    y, x = np.mgrid[:64, :64]
    spots = [np.exp(-((x - 16 - 32 * index / (frames - 1)) ** 2 + (y - 32) ** 2) / 60) for index in range(frames)]
    return np.stack([np.repeat((255 * spot[..., None]).round(), 3, axis=2) for spot in spots]).astype(np.uint8)


@pytest.mark.parametrize("way", [filling.blended, filling.motion_compensated])
def test_frames_are_filled_in_at_their_own_places(way: Callable[[Pictures, int], Pictures]) -> None:
    exact = moving(33)
    made = way(exact, 9).astype(int)
    assert made.shape == exact.shape
    errors = [np.abs(made[2:-2] - exact[2 + shift : 31 + shift]).mean() for shift in (-2, -1, 0, 1, 2)]
    assert int(np.argmin(errors)) == 2
    assert np.abs(made[::4] - exact[::4]).mean() < 1  # the keys


@pytest.mark.parametrize(("frames", "keys"), [(192, 40), (192, 53), (48, 31), (48, 48), (33, 2)])
def test_motion_is_compensated_between_any_number_of_keys(frames: int, keys: int) -> None:
    assert filling.motion_compensated(moving(frames), keys).shape == (frames, 64, 64, 3)


def test_a_way_gets_as_many_keys_as_fit_into_the_time() -> None:
    exact, given = moving(33), list[int]()

    def count(pictures: Pictures, keys: int) -> Pictures:
        given.append(keys)
        return pictures

    filling.affordable(count, exact, seconds=10.5, each=1)
    assert given == [10, 10]


def test_the_tree_begins_and_ends_with_the_pictures_of_the_model(
    renderer: Renderer, spec: Callable[..., WalkSpec]
) -> None:
    renderer.warm_up(64)
    walk = spec(steps=8, guidance=2.0, width=64, height=64)
    tree = filling.Tree(renderer, walk)
    tree.grow(0.5)
    places = [branch.place for branch in tree.branches]
    assert places == sorted(set(places))
    assert len(places) > 3
    ends = renderer.render(walk, [0.0, 1.0]).pictures
    assert np.abs(tree.frames([0.0, 1.0]).astype(int) - ends).mean() < 1
