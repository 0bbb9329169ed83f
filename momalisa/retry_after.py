"""The Retry-After header of HTTP (RFC 9110, section 10.2.3)."""

import time
from email.utils import parsedate_to_datetime


def seconds(header: str) -> float | None:
    """Return the seconds that a server asks its clients to wait, or None if the header is empty or invalid.

    Args:
        header: a number of seconds, or a date.
    """
    if header.isascii() and header.isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
