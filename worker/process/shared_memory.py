"""Memory that a worker's parent process shares with the children that Celery forks from it."""

import json
import mmap
import time
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

READ_SECONDS = 1.0
"""How long a reader waits while a value is being written; a write takes less than a microsecond."""


class Shared(Generic[T]):
    """A JSON value in shared memory, created before the fork and written by one process at a time.

    There is no lock, because a killed process would never release it.
    """

    def __init__(self, value: T) -> None:
        self.memory = mmap.mmap(-1, 8192)
        self._first = value
        self.set(value)

    def get(self) -> T:
        """Return the value that was set last; the initial one if the writer was killed while writing."""
        until = time.monotonic() + READ_SECONDS
        while time.monotonic() < until:
            with suppress(ValueError):  # it is being written
                value: T = json.loads(self.memory[:].rstrip(b"\0"))
                return value
        return self._first

    def set(self, value: T) -> None:
        """Set the value for all processes."""
        self.memory[:] = json.dumps(value).encode().ljust(len(self.memory), b"\0")
