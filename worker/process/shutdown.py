"""Shutdown of a worker, on request."""

import mmap
import time

STOP_SECONDS = 10
"""Time that current work has to end after the request; Spot nodes grant 15 s in all."""

POLL_SECONDS = 0.1


class ShutdownRequested(Exception):  # noqa: N818 - not an error
    """This worker was asked to stop."""


class Shutdown:
    """A flag that a worker's parent process shares with its children; created before the fork."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)  # no lock: a killed process would never release it

    def request(self) -> None:
        """Ask all processes of the worker to stop claiming and to release the chunks that they hold."""
        self._flag[0] = 1

    def requested(self) -> bool:
        """Return whether shutdown was requested."""
        return self._flag[0] != 0

    def wait(self, seconds: float) -> bool:
        """Sleep until shutdown is requested, at most `seconds`; return whether it was requested."""
        until = time.monotonic() + seconds
        while not self.requested() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        return self.requested()
