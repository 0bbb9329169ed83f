"""The passes of dense walks, with latents that are points on a curve, and pictures that show them as a bar."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from math import tanh
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from momalisa.domain import dense, pacing, passes
from momalisa.domain.dense import Check
from momalisa.domain.passes import TOLERANCE, Recorded
from momalisa.domain.path import leg
from momalisa.domain.pins import Pins
from momalisa.domain.spec import WalkSpec
from tests.thumbnails import bar

MakeSpec = Callable[..., WalkSpec]
Latents = Callable[[float], float]

LEVELS = 100.0
"""Difference of the pictures at both ends, in the unit of errors."""


def jump(at: float, sharpness: float) -> Latents:
    return lambda position: (1 + tanh((position - at) * sharpness / 2)) / 2


class Walked:
    """A walk that was made pass by pass, with what each frame was."""

    def __init__(
        self,
        spec: WalkSpec,
        latents: Latents,
        size: int = 8,
        without_latents: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self.spec, self.latents, self.without_latents = spec, latents, without_latents
        self.recorded: dict[float, Recorded] = {}
        self.denoised: list[list[float]] = [passes.plan_first_pass(spec, size)]
        self.expected: dict[float, float] = {}
        self._record(self.denoised[0])
        while (planned := passes.plan_next_pass(spec, self.recorded, size)).batches:
            self.batches = planned.batches
            new = [position for batch in planned.batches for position in batch.positions]
            if planned.batches[0].interpolated:
                self.expected = planned.errors
                self._record(new, interpolated=True)
            else:
                self.denoised.append(new)
                self._record(new)

    @property
    def keys(self) -> list[float]:
        """The positions of frames with latents."""
        found = sorted(position for position, frame in self.recorded.items() if frame.latents)
        return [*found, 1.0] if self.spec.timing.closed and found[:1] == [0.0] else found

    def covered(self) -> dict[float, float]:
        """Return how far the picture has moved at each denoised frame."""
        places = sorted(set(self.recorded) - set(self.expected))
        pictures = [self.recorded[place].thumbnail or b"" for place in places]
        if self.spec.timing.closed:
            places, pictures = [*places, 1.0], [*pictures, pictures[0]]
        moved = accumulate((pacing.distance(a, b) for a, b in pairwise(pictures)), initial=0.0)
        return dict(zip(places, moved, strict=True))

    def error(self, position: float, keys: list[float]) -> tuple[Check, float] | None:
        """Return the check of a frame by interpolation between keys, and by how much that is off."""
        near = dense.neighbours(position, keys, self.spec.legs)
        if not near:
            return None
        places = [self.latents(key) for key in near]
        weights = dense.weights(position, near, [abs(b - a) for a, b in pairwise(places)])
        made = sum(weight * place for weight, place in zip(weights, places, strict=True))
        error = LEVELS * abs(made - self.latents(position))
        start, end = max(key for key in near if key < position), min(key for key in near if key > position)
        return Check(start=start, end=end, mean=error, block=error), error

    def _record(self, positions: list[float], *, interpolated: bool = False) -> None:
        keys = self.keys if self.recorded else []
        for position in positions:
            off = None if interpolated else self.error(position, keys)
            self.recorded[position] = Recorded(
                bar(self.latents(position)),
                latents=not interpolated and not self.without_latents(position),
                interpolated=interpolated,
                check=off and off[0],
            )


orders = st.fixed_dictionaries(
    {
        "prompts": st.lists(st.just("a"), min_size=2, max_size=5).map(tuple),
        "frames": st.integers(passes.FEWEST_FRAMES, 960),
        "loop": st.sampled_from(["none", "pingpong", "closed"]),
        "easing": st.sampled_from(["linear", "ease-in-out"]),
        "pacing": st.sampled_from(["even", "even", "linear"]),
    }
)
sizes = st.sampled_from([1, 4, 8, 64])
quick = settings(max_examples=30, deadline=None)


@quick
@given(orders, sizes, st.floats(0, 1), st.floats(1, 1000))
def test_every_frame_is_planned_once_and_stops_and_ends_are_denoised(
    spec: MakeSpec, order: dict[str, Any], size: int, at: float, sharpness: float
) -> None:
    ordered = spec(**order, exact=False)
    walk = Walked(ordered, jump(at, sharpness), size)
    assert len(walk.recorded) == ordered.frames
    planned = [position for new in walk.denoised for position in new] + list(walk.expected)
    assert len(planned) == len(set(planned)) == ordered.frames
    legs = ordered.timing.legs
    assert {stop / legs for stop in range(legs + (not ordered.timing.closed))} <= {*planned} - {*walk.expected}


@quick
@given(orders, sizes, st.floats(0, 1), st.floats(1, 1000))
def test_no_frame_is_interpolated_in_a_gap_without_a_check_that_allows_it(
    spec: MakeSpec, order: dict[str, Any], size: int, at: float, sharpness: float
) -> None:
    walk = Walked(spec(**order, exact=False), jump(at, sharpness), size)
    legs = walk.spec.legs
    checks = [frame.check for frame in walk.recorded.values() if frame.check]
    covered = walk.covered()
    for position, error in walk.expected.items():
        number = leg(position, legs)[0]
        near = dense.neighbours(position, walk.keys, legs)
        assert {leg(key, legs)[0] for key in near[:-1]} == {number}
        start, end = max(key for key in covered if key < position), min(key for key in covered if key > position)
        length = covered[end] - covered[start]
        of_leg = covered[(number + 1) / legs] - covered[number / legs]
        assert length <= passes.LONGEST * of_leg + 1e-6
        covering = [check for check in checks if check.start <= start and end <= check.end]
        assert covering
        narrowest = min(covering, key=lambda check: (check.end - check.start, -check.mean))
        whole = covered[narrowest.end] - covered[narrowest.start]
        assert error == pytest.approx(narrowest.mean * (length / whole if whole else 1), abs=1e-6)
        assert error <= TOLERANCE.mean


def test_a_dense_walk_denoises_few_frames_and_those_where_the_picture_moves(spec: MakeSpec) -> None:
    ordered = spec(frames=480, pacing="even", exact=False)
    latents = jump(0.5, 20)
    walk = Walked(ordered, latents)
    denoised = [position for new in walk.denoised for position in new]
    assert len(denoised) <= ordered.frames / 6
    assert len(walk.denoised) <= 5
    for position, expected in walk.expected.items():
        found = walk.error(position, walk.keys)
        assert found
        assert found[1] <= TOLERANCE.mean
        assert found[1] <= 2 * expected + 0.01
    later = [position for new in walk.denoised[1:] for position in new]
    assert sum(0.4 < position < 0.6 for position in later) > len(later) / 2


@quick
@given(orders, st.data())
def test_the_plan_is_the_same_in_any_order_of_arrival(
    spec: MakeSpec, order: dict[str, Any], data: st.DataObject
) -> None:
    ordered = spec(**order, exact=False)
    walk = Walked(ordered, jump(0.3, 30))
    there = {position: walk.recorded[position] for new in walk.denoised[:2] for position in new}
    shuffled = data.draw(st.permutations(list(there.items())))
    assert passes.plan_next_pass(ordered, there, 8) == passes.plan_next_pass(ordered, dict(shuffled), 8)


@quick
@given(orders, sizes)
def test_a_model_without_latents_denoises_every_frame(spec: MakeSpec, order: dict[str, Any], size: int) -> None:
    walk = Walked(spec(**order, exact=False), jump(0.5, 20), size, without_latents=lambda _: True)
    assert not walk.expected
    assert all(len(new) <= sum(map(len, walk.denoised[:index])) for index, new in enumerate(walk.denoised) if index)


def test_beside_a_flagged_frame_all_are_denoised(spec: MakeSpec) -> None:
    flagged = 8 / 15  # of the first pass

    def is_flagged(position: float) -> bool:
        return abs(position - flagged) < 0.01

    walk = Walked(
        spec(frames=240, pacing="even", exact=False), lambda position: position, without_latents=is_flagged
    )
    assert walk.expected
    assert [position for position in walk.recorded if is_flagged(position)]
    for before, after in pairwise(sorted(set(walk.recorded) - set(walk.expected))):
        if is_flagged(before) or is_flagged(after):
            assert not [position for position in walk.expected if before < position < after]


def test_a_check_between_frames_that_the_walk_does_not_have_counts_for_nothing(spec: MakeSpec) -> None:
    """It came with a frame that was copied from a walk of other frames."""
    ordered = spec(frames=96, pacing="even", exact=False)
    walk = Walked(ordered, jump(0.5, 20))
    there = {position: walk.recorded[position] for new in walk.denoised[:2] for position in new}
    at = walk.denoised[1][0]
    without = {**there, at: there[at]._replace(check=None)}
    foreign = {**there, at: there[at]._replace(check=Check(start=0.00001, end=0.99999, mean=0, block=0))}
    assert passes.plan_next_pass(ordered, foreign, 8) == passes.plan_next_pass(ordered, without, 8)


def test_the_last_pass_is_made_in_contiguous_chunks_of_several_batches(spec: MakeSpec) -> None:
    walk = Walked(spec(frames=240, pacing="even", exact=False), lambda position: position, size=8)
    assert all(batch.interpolated for batch in walk.batches)
    assert [len(batch.positions) for batch in walk.batches[:-1]] == [8 * passes.LARGER] * (len(walk.batches) - 1)
    in_order = [position for batch in walk.batches for position in batch.positions]
    assert in_order == sorted(in_order)


@quick
@given(orders, st.booleans())
def test_exact_walks_and_those_that_are_not_dense_are_planned_as_before(
    spec: MakeSpec, order: dict[str, Any], exact: bool
) -> None:
    too_few = passes.FEWEST_FRAMES * (len(order["prompts"]) - 1) - 1
    ordered = spec(**order | ({} if exact else {"frames": too_few}), exact=exact)
    assert passes.plan_first_pass(ordered, 8) == pacing.plan_first_pass(ordered, 8)
    walk = Walked(ordered, jump(0.5, 20))
    assert not walk.expected


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=3), st.floats(0.01, 0.99), st.floats(0, 1))
def test_the_weights_of_keys_give_a_straight_line_and_the_keys_themselves(
    steps: list[float], place: float, start: float
) -> None:
    keys = [start, *(start + sum(steps[: index + 1]) for index in range(len(steps)))]
    before = (len(keys) - 1) // 2
    at = keys[before] + place * (keys[before + 1] - keys[before])
    weights = dense.weights(at, keys, [2 * (b - a) for a, b in pairwise(keys)])
    assert sum(weights) == pytest.approx(1)
    assert sum(weight * key for weight, key in zip(weights, keys, strict=True)) == pytest.approx(at)
    near = dense.weights(keys[before], keys, steps)
    assert near[before] == pytest.approx(1)
    assert sum(map(abs, near)) == pytest.approx(1)


def test_neighbours_are_of_the_same_leg() -> None:
    keys = [0, 0.1, 0.3, 0.5, 0.7, 1]
    assert dense.neighbours(0.4, keys, 1) == (0.1, 0.3, 0.5, 0.7)
    assert dense.neighbours(0.4, keys, 2) == (0.1, 0.3, 0.5)
    assert dense.neighbours(0.6, keys, 2) == (0.5, 0.7, 1)
    assert dense.neighbours(0.4, [0, 0.7], 2) == ()


def test_pins_say_what_was_interpolated_and_an_exact_walk_denoises_it() -> None:
    pins = Pins.model_validate(
        {"batches": [{"size": 2, "positions": [0, 1]}, {"size": 2, "positions": [0.5], "interpolated": True}]}
    )
    assert [batch.interpolated for batch in pins.with_batches_of(1).batches] == [False, False, True]
    assert not any(batch.interpolated for batch in pins.denoised().batches)
    assert pins.denoised().positions == pins.positions
    assert pins.mistake(3, 1, closed=False) is None
    alone = Pins.model_validate({"batches": [{"size": 3, "positions": [0, 0.5, 1], "interpolated": True}]})
    assert (
        alone.mistake(3, 1, closed=False) == "batch 0 cannot be interpolated, since there are no frames before it"
    )
