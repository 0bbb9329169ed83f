from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momalisa.domain import path
from momalisa.domain.path import Easing, Loop, Timing

weights = st.floats(0.01, 100)
easings = st.sampled_from(get_args(Easing))


@st.composite
def courses(draw: st.DrawFn) -> Timing:
    stops = draw(st.lists(weights, min_size=2, max_size=10))
    closed = draw(st.booleans())
    return Timing((*stops, stops[0]) if closed else tuple(stops), draw(easings), closed)


@st.composite
def walks(draw: st.DrawFn) -> tuple[int, Timing]:
    course = draw(courses())
    return draw(st.integers(course.legs + (not course.closed), 240)), course


@given(walks())
def test_there_are_as_many_positions_as_frames_in_ascending_order(frames_and_course: tuple[int, Timing]) -> None:
    frames, course = frames_and_course
    positions = path.positions(frames, course)
    assert len(positions) == frames
    assert all(a < b for a, b in pairwise(positions))
    assert positions[0] == 0
    assert positions[-1] < 1 if course.closed else positions[-1] == 1


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), easings, st.floats(0, 1))
def test_only_the_ratio_of_weights_counts_however_small_or_large(
    start: float, end: float, easing: Easing, moment: float
) -> None:
    course = Timing((start, end), easing)
    assert 0 <= course.progress(0, moment) <= 1
    assert 0 <= course.time(0, moment) <= 1
    tiny, usual = Timing((start / 4, end / 4), easing), Timing((start, end), easing)
    assert tiny.progress(0, moment) == pytest.approx(usual.progress(0, moment))
    same = Timing((start, start), easing)
    assert same.progress(0, moment) == pytest.approx(Timing((1, 1), easing).progress(0, moment))


@given(walks())
def test_every_stop_has_a_frame_of_its_own(frames_and_course: tuple[int, Timing]) -> None:
    frames, course = frames_and_course
    positions = path.positions(frames, course)
    stops = range(course.legs + (not course.closed))
    assert [positions.count(stop / course.legs) for stop in stops] == [1] * len(stops)


@given(st.integers(2, 10), st.integers(10, 240), easings)
def test_legs_between_equal_stops_differ_by_at_most_one_frame(stops: int, frames: int, easing: Easing) -> None:
    positions = path.positions(frames, Timing((1.0,) * stops, easing))
    joints = [positions.index(stop / (stops - 1)) for stop in range(stops)]
    lengths = [b - a for a, b in pairwise(joints)]
    assert max(lengths) - min(lengths) <= 1


def test_a_walk_between_two_stops_has_equal_steps() -> None:
    assert path.positions(5, Timing((1, 1))) == [0, 0.25, 0.5, 0.75, 1]


def test_a_closed_walk_ends_one_step_before_its_start() -> None:
    assert path.positions(6, Timing((1, 1, 1), closed=True)) == pytest.approx(
        [0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6]
    )


def test_a_walk_lingers_at_a_heavy_stop() -> None:
    positions = path.positions(21, Timing((1, 4, 1)))
    steps = [b - a for a, b in pairwise(positions)]
    assert steps[9] == pytest.approx(steps[10])
    assert steps[9] < steps[0] / 3
    assert steps[:10] == sorted(steps[:10], reverse=True)


def test_a_leg_to_a_heavy_stop_has_more_frames() -> None:
    positions = path.positions(31, Timing((1, 1, 9)))
    assert positions.index(0.5) == 5


@pytest.mark.parametrize(
    ("easing", "steps"),
    [
        ("ease-in", "grow"),
        ("ease-out", "shrink"),
        ("ease-in-out", "grow, then shrink"),
    ],
)
def test_easing_slows_a_leg_down_at_its_ends(easing: Easing, steps: str) -> None:
    positions = path.positions(11, Timing((1, 1), easing))
    sizes = [b - a for a, b in pairwise(positions)]
    middle = {"grow": 10, "shrink": 0, "grow, then shrink": 5}[steps]
    assert sizes[:middle] == sorted(sizes[:middle])
    assert sizes[middle:] == sorted(sizes[middle:], reverse=True)


@given(courses(), st.floats(0, 1))
def test_time_and_progress_are_inverse(timing: Timing, progress: float) -> None:
    for leg in range(timing.legs):
        assert timing.progress(leg, timing.time(leg, progress)) == pytest.approx(progress, abs=1e-6)


@given(courses(), st.lists(st.floats(0, 1), min_size=2))
def test_progress_is_monotone_from_stop_to_stop(timing: Timing, times: list[float]) -> None:
    for leg in range(timing.legs):
        done = [timing.progress(leg, time) for time in [0, *sorted(times), 1]]
        assert all(a <= b + 1e-12 for a, b in pairwise(done))
        assert (done[0], done[-1]) == pytest.approx((0, 1), abs=1e-9)


@pytest.mark.parametrize(("frames", "stops"), [(5, 1), (2, 3)])
def test_fewer_frames_than_stops_are_refused(frames: int, stops: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        path.positions(frames, Timing((1.0,) * stops))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 40)), min_size=1, max_size=30), st.data())
def test_no_other_apportionment_has_a_smaller_largest_part(
    things: list[tuple[float, int]], data: st.DataObject
) -> None:
    sizes, most = [size for size, _ in things], [limit for _, limit in things]
    total = data.draw(st.integers(len(things), sum(most)))
    parts = path.apportion(sizes, total, most)
    assert sum(parts) == total
    assert all(1 <= part <= limit for part, limit in zip(parts, most, strict=True))
    cuttable = [size / part for size, part, limit in zip(sizes, parts, most, strict=True) if part < limit]
    left = max(cuttable, default=0)
    for size, part in zip(sizes, parts, strict=True):
        assert part == 1 or size / (part - 1) >= left


@pytest.mark.parametrize("total", [1, 5])
def test_an_impossible_apportionment_is_refused(total: int) -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        path.apportion([1, 1], total, [2, 2])


@given(st.integers(1, 300), st.integers(1, 64))
def test_every_frame_is_in_exactly_one_chunk(frames: int, size: int) -> None:
    chunks = path.chunks(frames, size)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(frames))
    assert all(1 <= len(chunk) <= size for chunk in chunks)
    assert len(chunks) <= -(-frames // size) + 1


@given(st.integers(2, 300), st.integers(2, 64))
def test_the_first_chunk_spans_the_walk_evenly(frames: int, size: int) -> None:
    first, *_ = path.chunks(frames, size)
    assert (first[0], first[-1]) == (0, frames - 1)
    gaps = [b - a for a, b in pairwise(first)]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(2, 300), st.integers(2, 64))
def test_each_chunk_is_spread_over_the_walk(frames: int, size: int) -> None:
    """After any number of chunks, no gap is much wider than if the frames so far were spread evenly."""
    chunks = path.chunks(frames, size)
    seen: list[int] = []
    for chunk in chunks:
        seen = sorted([*seen, *chunk])
        widest = max(b - a for a, b in pairwise(seen))
        assert widest <= 3 * frames / len(seen) + 2


@pytest.mark.parametrize(("frames", "size"), [(0, 4), (4, 0)])
def test_chunks_without_frames_are_refused(frames: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        path.chunks(frames, size)


@given(walks())
def test_each_position_finds_its_leg_and_stops_are_exact(frames_and_course: tuple[int, Timing]) -> None:
    frames, course = frames_and_course
    for position in path.positions(frames, course):
        leg, along = path.leg(position, course.legs)
        assert 0 <= leg < course.legs
        assert 0 <= along <= 1
        assert (leg + along) / course.legs == pytest.approx(position)
    for stop in range(course.legs):
        assert path.leg(stop / course.legs, course.legs) == (stop, 0)
    assert path.leg(1, course.legs) == (course.legs - 1, 1)


@given(walks(), st.integers(0, 5), st.sampled_from(get_args(Loop)))
def test_the_animation_shows_every_frame_and_holds_the_stops_only(
    frames_and_course: tuple[int, Timing], hold: int, loop: Loop
) -> None:
    frames, course = frames_and_course
    positions = path.positions(frames, course)
    shown = path.sequence(positions, course.legs, hold=hold, loop=loop)
    assert set(shown) == set(range(frames))
    runs = [(a, shown.count(a)) for a in range(frames)]
    for index, times in runs:
        stop = path.leg(positions[index], course.legs)[1] in {0, 1}
        ways = 2 if loop == "pingpong" and 0 < index < frames - 1 else 1
        assert times == ways * (1 + hold if stop else 1)


@given(walks())
def test_a_pingpong_shows_no_frame_twice_in_a_row(frames_and_course: tuple[int, Timing]) -> None:
    frames, course = frames_and_course
    shown = path.sequence(path.positions(frames, course), course.legs, hold=0, loop="pingpong")
    assert len(shown) == max(2 * frames - 2, 2)
    assert all(abs(a - b) == 1 for a, b in pairwise([*shown, shown[0]]))


def test_a_stop_is_held_each_time_it_is_passed() -> None:
    shown = path.sequence([0, 0.25, 0.5, 0.75, 1], 2, hold=1, loop="pingpong")
    assert shown == [0, 0, 1, 2, 2, 3, 4, 4, 3, 2, 2, 1]


@given(st.floats(0, 1))
def test_the_seed_of_a_closed_walk_returns_to_its_start(position: float) -> None:
    assert path.seed_progress(position, closed=False) == position
    assert 0 <= path.seed_progress(position, closed=True) <= 1
    assert path.seed_progress(position, closed=True) == pytest.approx(path.seed_progress(1 - position, closed=True))
    assert (path.seed_progress(0, closed=True), path.seed_progress(0.5, closed=True)) == (0, 1)
