"""PostgreSQL that neither answers nor closes a connection, as one whose machine or disk hangs."""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def frozen(postmaster: int) -> Iterator[None]:
    """Stop all processes of the PostgreSQL with this pid for the length of a block."""
    parent = psutil.Process(postmaster)
    parent.send_signal(signal.SIGSTOP)  # first, so that it makes no more of them
    processes = [parent, *parent.children(recursive=True)]
    try:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
