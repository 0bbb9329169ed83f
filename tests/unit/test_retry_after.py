"""The Retry-After header, as other servers send it."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from momalisa import retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("17", 17),
        ("0", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("١٧", None),
        ("soon", None),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0),
    ],
)
def test_seconds_are_parsed(header: str, seconds: float | None) -> None:
    assert retry_after.seconds(header) == seconds


def test_a_date_is_parsed() -> None:
    found = retry_after.seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))
    assert found
    assert 90 < found <= 100
