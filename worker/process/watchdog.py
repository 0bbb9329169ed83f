"""The thread that keeps the leases of a process."""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Never

from momalisa.db import notifications


class Watchdog:
    """One thread for all leases of a process, started before any chunk is claimed.

    If memory has run out, starting a thread may hang the thread that starts it, and nothing would watch that.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs; also the one that sends notifications, which could hang a claim."""
        if self._thread is None:
            notifications.begin()
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()

    def watch(self, keep: Callable[[], None]) -> None:
        """Make the thread call `keep`, which returns when the lease has ended."""
        self._jobs.put(keep)

    def _run(self) -> Never:
        try:
            while True:
                self._jobs.get()()
        finally:
            os._exit(1)  # no work may continue without the watchdog
