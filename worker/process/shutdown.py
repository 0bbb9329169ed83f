"""Whether a worker was asked to stop."""

import mmap
import time

STOP_SECONDS = 10
"""How long the work at hand may take to end after a request to stop; Spot nodes grant 15 s in all."""

POLL_SECONDS = 0.1


class ShutdownRequested(Exception):  # noqa: N818 - it is no error
    """This worker was asked to stop."""


class Shutdown:
    """A flag that a worker's parent process shares with its children; created before the fork."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)  # a lock could die with the process that holds it

    def request(self) -> None:
        """Ask all processes of the worker to claim nothing more and to release what they hold."""
        self._flag[0] = 1

    def requested(self) -> bool:
        """Return whether the worker was asked to stop."""
        return self._flag[0] != 0

    def wait(self, seconds: float) -> bool:
        """Sleep until a stop is requested, but not longer than `seconds`; return whether it was requested."""
        until = time.monotonic() + seconds
        while not self.requested() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        return self.requested()
