"""Even pacing, with pictures of a growing bar whose length is the progress, without noise."""

from collections.abc import Callable
from itertools import pairwise
from math import tanh
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momalisa.domain import pacing
from momalisa.domain.pacing import GRID
from momalisa.domain.path import leg
from momalisa.domain.spec import WalkSpec
from tests.thumbnails import bar

MakeSpec = Callable[..., WalkSpec]
Looks = Callable[[float], bytes]


def jump(at: float, sharpness: float) -> Looks:
    return lambda position: bar((1 + tanh((position - at) * sharpness / 2)) / 2)


def walked(spec: WalkSpec, looks: Looks, size: int = 8, kept: tuple[float, ...] = ()) -> list[list[float]]:
    """Return the positions of each pass."""
    passes = [pacing.plan_first_pass(spec, size, kept)]
    recorded = {position: looks(position) for position in passes[0]}
    while new := pacing.plan_next_pass(spec, recorded, size):
        passes.append(new)
        recorded |= {position: looks(position) for position in new}
    return passes


def steps(positions: list[float], looks: Looks) -> list[float]:
    return [pacing.distance(looks(a), looks(b)) for a, b in pairwise(sorted(positions))]


orders = st.fixed_dictionaries(
    {
        "prompts": st.lists(st.just("a"), min_size=2, max_size=10).map(tuple),
        "frames": st.integers(10, 240),
        "loop": st.sampled_from(["none", "pingpong", "closed"]),
        "easing": st.sampled_from(["linear", "ease-in", "ease-out", "ease-in-out"]),
        "pacing": st.sampled_from(["even", "even", "linear"]),
    }
)
places = st.floats(0, 1)
sizes = st.integers(1, 64)


@given(orders, sizes, places, st.floats(1, 10_000))
def test_every_walk_gets_its_frames_at_distinct_positions(
    spec: MakeSpec, order: dict[str, Any], size: int, at: float, sharpness: float
) -> None:
    ordered = spec(**order)
    found = sorted(position for new in walked(ordered, jump(at, sharpness), size) for position in new)
    assert len(found) == len(set(found)) == ordered.frames
    legs = ordered.timing.legs
    stops = [stop / legs for stop in range(legs + (not ordered.timing.closed))]
    assert set(stops) <= set(found)
    assert found[0] == 0
    assert found[-1] < 1 if ordered.timing.closed else found[-1] == 1
    if ordered.pacing == "even":
        assert min(b - a for a, b in pairwise(found)) > 0.99 / GRID / legs


@given(orders, sizes, places)
def test_passes_are_few_and_each_about_doubles_the_frames(
    spec: MakeSpec, order: dict[str, Any], size: int, at: float
) -> None:
    passes = walked(spec(**order), jump(at, 50), size)
    assert len(passes) <= 4 or len(passes[0]) < spec(**order).frames / 4
    there = 0
    for new in passes[1:]:
        there += len(new)
        assert len(new) <= there + len(passes[0]) + size


@pytest.mark.parametrize(
    ("frames", "size", "expected"),
    [
        (48, 8, [16, 16, 8, 8]),
        (24, 8, [8, 8, 8]),
        (20, 8, [8, 12]),
        (16, 8, [8, 8]),
        (8, 8, [4, 4]),
        (240, 8, [80, 80, 40, 40]),
        (48, 64, [24, 24]),
        (3, 8, [3]),
        (2, 8, [2]),
    ],
)
def test_passes_are_whole_batches_if_possible(spec: MakeSpec, frames: int, size: int, expected: list[int]) -> None:
    passes = walked(spec(frames=frames, pacing="even"), jump(0.5, 10), size)
    assert [len(new) for new in passes] == expected


def test_linear_pacing_needs_one_pass(spec: MakeSpec) -> None:
    [only] = walked(spec(frames=48), jump(0.5, 10))
    assert only == pytest.approx([index / 47 for index in range(48)])


def test_the_first_pass_is_a_probe_in_equal_steps(spec: MakeSpec) -> None:
    first, *_ = walked(spec(frames=48, pacing="even"), jump(0.5, 10))
    assert first == pytest.approx([index / 15 for index in range(16)], abs=1 / GRID)


@given(st.integers(8, 240), places, st.floats(1, 10_000))
def test_pacing_is_never_worse_than_its_own_probe(spec: MakeSpec, frames: int, at: float, sharpness: float) -> None:
    looks = jump(at, sharpness)
    passes = walked(spec(frames=frames, pacing="even"), looks)
    for later in range(1, len(passes)):
        before = [position for new in passes[:later] for position in new]
        assert max(steps([*before, *passes[later]], looks)) <= max(steps(before, looks))


@given(st.floats(0.1, 0.9), st.floats(60, 400))
def test_a_jump_is_divided_into_small_steps(spec: MakeSpec, at: float, sharpness: float) -> None:
    looks = jump(at, sharpness)
    found = [position for new in walked(spec(frames=48, pacing="even"), looks) for position in new]
    equal = [index / 47 for index in range(48)]
    assert max(steps(found, looks)) < max(steps(equal, looks)) * 0.6


def test_steps_within_a_gap_follow_a_speed_that_changes_steadily(spec: MakeSpec) -> None:
    there = [index / 8 for index in range(9)]
    distances = [b**2 - a**2 for a, b in pairwise(there)]
    found = sorted([*there, *pacing.subdivide(there, distances, 120, spec(frames=129).timing)])
    between = [b**2 - a**2 for a, b in pairwise(found) if a >= 0.5 and b <= 0.625]
    assert max(between) / min(between) < 1.1  # straight lines within gaps would give 1.2


def test_a_jump_sharper_than_the_grid_does_not_take_all_frames(spec: MakeSpec) -> None:
    found = sorted(p for new in walked(spec(frames=240, pacing="even"), lambda p: bar(float(p > 0.3))) for p in new)
    assert len(found) == 240
    assert max(b - a for a, b in pairwise(found)) < 1 / 40


@given(st.lists(st.just("a"), min_size=2, max_size=5), st.integers(20, 120))
def test_a_steady_walk_takes_steady_steps(spec: MakeSpec, prompts: list[str], frames: int) -> None:
    ordered = spec(prompts=tuple(prompts), frames=frames, pacing="even")
    found = [position for new in walked(ordered, bar) for position in new]
    sizes_ = steps(found, bar)
    assert max(sizes_) <= 2.2 * sum(sizes_) / len(sizes_)


def test_equal_pictures_are_spread_evenly(spec: MakeSpec) -> None:
    ordered = spec(prompts=("a", "a", "a"), frames=33, pacing="even")
    found = sorted(position for new in walked(ordered, lambda _: bar(0)) for position in new)
    assert max(b - a for a, b in pairwise(found)) <= 2.2 / 32


def test_a_leg_with_more_change_gets_more_frames(spec: MakeSpec) -> None:
    def looks(position: float) -> bytes:
        return bar(position * 0.2 if position < 0.5 else 0.1 + (position - 0.5) * 1.8)

    found = [p for new in walked(spec(prompts=("a", "b", "c"), frames=48, pacing="even"), looks) for p in new]
    first = sum(leg(position, 2)[0] == 0 for position in found)
    assert first < 48 * 0.35  # a third of them is the probe, half of which lies there


def test_easing_is_relative_to_visible_change(spec: MakeSpec) -> None:
    """The picture rests, then jumps in the middle; with ease-out, it still changes fast first and slowly last."""
    looks = jump(0.5, 30)
    ordered = spec(frames=96, pacing="even", easing="ease-out")
    sizes_ = steps([position for new in walked(ordered, looks) for position in new], looks)
    assert sum(sizes_[:32]) > 1.2 * sum(sizes_[-32:])


def test_a_heavy_stop_attracts_frames(spec: MakeSpec) -> None:
    ordered = spec(prompts=("a", "b", "c"), weights=(1, 6, 1), frames=60, pacing="even")
    found = [position for new in walked(ordered, bar) for position in new]
    assert sum(0.25 < position < 0.75 for position in found) > 35


def test_a_plan_does_not_depend_on_the_order_of_frames(spec: MakeSpec) -> None:
    ordered, looks = spec(frames=48, pacing="even"), jump(0.4, 80)
    there = {position: looks(position) for position in pacing.plan_first_pass(ordered, 8)}
    backwards = dict(reversed(there.items()))
    assert pacing.plan_next_pass(ordered, there, 8) == pacing.plan_next_pass(ordered, backwards, 8)


def test_a_refined_walk_keeps_all_frames(spec: MakeSpec) -> None:
    coarse, looks = spec(frames=16, pacing="even"), jump(0.4, 30)
    kept = tuple(position for new in walked(coarse, looks) for position in new)
    passes = walked(spec(frames=48, pacing="even"), looks, kept=kept)
    found = [position for new in passes for position in new]
    assert set(passes[0]) == set(kept)
    assert len(found) == len(set(found)) == 48


def test_a_refined_linear_walk_has_equal_steps(spec: MakeSpec) -> None:
    for kept, frames in ((5, 12), (5, 9)):
        [found] = walked(spec(frames=frames), bar, kept=tuple(index / (kept - 1) for index in range(kept)))
        assert found == [index / (frames - 1) for index in range(frames)]


def test_a_few_kept_frames_become_part_of_the_probe(spec: MakeSpec) -> None:
    passes = walked(spec(frames=48, pacing="even"), bar, kept=(0.1, 0.9))
    assert {0, 0.1, 0.9, 1} <= set(passes[0])
    assert [len(new) for new in passes] == [16, 16, 8, 8]


signatures = st.binary(min_size=12, max_size=12)


@given(signatures, signatures, signatures)
def test_distance_is_a_metric(a: bytes, b: bytes, c: bytes) -> None:
    assert (pacing.distance(a, b) == 0) == (a == b)
    assert pacing.distance(a, b) == pacing.distance(b, a)
    assert pacing.distance(a, c) <= pacing.distance(a, b) + pacing.distance(b, c) + 1e-9


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.sampled_from(["even", "linear"]),
    st.booleans(),
    sizes,
    places,
)
def test_each_leg_gets_its_frames(
    spec: MakeSpec, wanted: list[int], pace: str, closed: bool, size: int, at: float
) -> None:
    if closed and len(wanted) == 1:
        wanted = [*wanted, 1]
    ordered = spec(
        prompts=("a",) * (len(wanted) + (not closed)),
        leg_frames=tuple(wanted),
        frames=sum(wanted) + (not closed),
        loop="closed" if closed else "none",
        pacing=pace,
    )
    found = sorted(position for new in walked(ordered, jump(at, 50), size) for position in new)
    assert len(found) == len(set(found)) == ordered.frames
    numbers = [leg(position, len(wanted)) for position in found]
    assert [sum(number == each and t < 1 for number, t in numbers) for each in range(len(wanted))] == wanted


def test_a_refined_walk_may_have_more_frames_on_each_leg(spec: MakeSpec) -> None:
    looks = jump(0.4, 30)
    coarse = spec(prompts=("a", "b", "c"), leg_frames=(10, 5), frames=16, pacing="even")
    kept = tuple(position for new in walked(coarse, looks) for position in new)
    fine = coarse.model_copy(update={"leg_frames": (12, 40), "frames": 53})
    assert fine.refines(coarse)
    found = [position for new in walked(fine, looks, kept=kept) for position in new]
    assert set(kept) <= set(found)
    assert sum(position < 0.5 for position in found) == 12
    assert not coarse.refines(fine)
    assert not fine.model_copy(update={"leg_frames": (9, 43)}).refines(coarse)
