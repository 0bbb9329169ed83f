import pytest

from api.limits import seconds_until_room


@pytest.mark.parametrize(
    ("cost", "previous", "previous_left", "current", "current_left", "expected"),
    [
        (1, 0, 0, 10, 100, 46),  # full for 20 s: from 40 s on it leaves the window, a tenth every 6 s
        (5, 0, 0, 10, 100, 70),
        (10, 0, 0, 10, 100, 100),
        (1, 10, 30, 5, 90, 6),  # five of the previous window still count, one less every 6 s
        (5, 10, 30, 5, 90, 30),
        (6, 10, 30, 5, 90, 42),
        (1, 0, 0, 0, 0, 1),  # there is room now
    ],
)
def test_a_refused_caller_learns_when_to_retry(
    cost: int, previous: int, previous_left: float, current: int, current_left: float, expected: int
) -> None:
    assert seconds_until_room(cost, 10, 60, previous, previous_left, current, current_left) == expected
