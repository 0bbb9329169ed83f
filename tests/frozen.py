"""PostgreSQL, or PgBouncer, that neither answers nor closes a connection, as on a machine that hangs."""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process and all that it started for the length of a block."""
    parent = psutil.Process(pid)
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
