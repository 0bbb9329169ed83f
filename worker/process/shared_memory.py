"""Memory that a worker shares with the processes that Celery forks in it one after the other."""

import json
import mmap
import time
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

WRITTEN_SECONDS = 1.0
"""After that nobody writes any more what cannot be read; to write takes less than a microsecond."""


class Shared(Generic[T]):
    """A value that JSON can hold, written by one process at a time; there is no lock that could die with one."""

    def __init__(self, value: T) -> None:
        self._memory = mmap.mmap(-1, 8192)
        self._first = value
        self.set(value)

    def get(self) -> T:
        """Return the value that was set last, in whichever process; the first one if that died while it wrote."""
        until = time.monotonic() + WRITTEN_SECONDS
        while time.monotonic() < until:
            with suppress(ValueError):  # it is just being written
                value: T = json.loads(self._memory[:].rstrip(b"\0"))
                return value
        return self._first

    def set(self, value: T) -> None:
        """Set the value for all processes."""
        self._memory[:] = json.dumps(value).encode().ljust(len(self._memory), b"\0")
