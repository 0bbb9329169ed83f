from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momalisa import walk

walks = st.integers(2, 10).flatmap(lambda stops: st.tuples(st.integers(stops, 240), st.just(stops)))


@given(walks)
def test_there_are_as_many_positions_as_frames_in_ascending_order(frames_and_stops: tuple[int, int]) -> None:
    frames, stops = frames_and_stops
    positions = walk.positions(frames, stops)
    assert len(positions) == frames
    assert all(a < b for a, b in pairwise(positions))
    assert (positions[0], positions[-1]) == (0, 1)


@given(walks)
def test_every_stop_has_a_frame_of_its_own(frames_and_stops: tuple[int, int]) -> None:
    frames, stops = frames_and_stops
    positions = walk.positions(frames, stops)
    assert [positions.count(stop / (stops - 1)) for stop in range(stops)] == [1] * stops


@given(walks)
def test_legs_differ_by_at_most_one_frame(frames_and_stops: tuple[int, int]) -> None:
    frames, stops = frames_and_stops
    joints = [walk.positions(frames, stops).index(stop / (stops - 1)) for stop in range(stops)]
    lengths = [b - a for a, b in pairwise(joints)]
    assert max(lengths) - min(lengths) <= 1


def test_a_walk_between_two_stops_takes_equal_steps() -> None:
    assert walk.positions(5, 2) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(("frames", "stops"), [(5, 1), (2, 3)])
def test_a_walk_without_room_for_its_stops_is_refused(frames: int, stops: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        walk.positions(frames, stops)


@given(st.integers(1, 300), st.integers(1, 64))
def test_every_frame_is_in_exactly_one_chunk(frames: int, size: int) -> None:
    chunks = walk.chunks(frames, size)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(frames))
    assert all(1 <= len(chunk) <= size for chunk in chunks)
    assert len(chunks) <= -(-frames // size) + 1


@given(st.integers(2, 300), st.integers(2, 64))
def test_the_first_chunk_spans_the_walk_evenly(frames: int, size: int) -> None:
    first, *_ = walk.chunks(frames, size)
    assert (first[0], first[-1]) == (0, frames - 1)
    gaps = [b - a for a, b in pairwise(first)]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(2, 300), st.integers(2, 64))
def test_each_chunk_spreads_over_the_walk(frames: int, size: int) -> None:
    """After any number of chunks, no gap is much wider than if the frames so far were spread evenly."""
    chunks = walk.chunks(frames, size)
    seen: list[int] = []
    for chunk in chunks:
        seen = sorted([*seen, *chunk])
        widest = max(b - a for a, b in pairwise(seen))
        assert widest <= 3 * frames / len(seen) + 2


@pytest.mark.parametrize(("frames", "size"), [(0, 4), (4, 0)])
def test_chunks_of_nothing_are_refused(frames: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        walk.chunks(frames, size)


@given(walks)
def test_each_position_finds_its_leg_and_stops_are_exact(frames_and_stops: tuple[int, int]) -> None:
    frames, stops = frames_and_stops
    for position in walk.positions(frames, stops):
        leg, along = walk.leg(position, stops)
        assert 0 <= leg < stops - 1
        assert 0 <= along <= 1
        assert (leg + along) / (stops - 1) == pytest.approx(position)
    for stop in range(stops):
        leg, along = walk.leg(stop / (stops - 1), stops)
        assert leg + along == stop
