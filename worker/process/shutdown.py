"""Whether a worker was asked to stop: known to its parent process and to the children that Celery forks in it."""

import mmap

STOP_SECONDS = 10
"""How long the work at hand may take to end when the worker is asked to stop; Spot nodes grant 15 s in all."""

_stop = mmap.mmap(-1, 1)  # one byte that is shared with the children that Celery forks; no lock to die with


class Stopping(Exception):  # noqa: N818
    """This worker was asked to stop."""


def stop() -> None:
    """Ask this process and its children to claim nothing more and to release what they hold."""
    _stop[0] = 1


def stopping() -> bool:
    """Return whether this worker was asked to stop."""
    return _stop[0] != 0
