"""The thread of a process that keeps its leases."""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Never

from momalisa.db import notifications


class Watchdog:
    """One thread for all leases of a process, started before any chunk is claimed.

    When memory has run out, starting a thread may hang the one that starts it, and then nothing would watch.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs; and the one that sends notices, which could hang a claim likewise."""
        if self._thread is None:
            notifications.begin()
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()

    def watch(self, keep: Callable[[], None]) -> None:
        """Have the thread call `keep`, which returns when its lease has ended."""
        self._jobs.put(keep)

    def _run(self) -> Never:
        try:
            while True:
                self._jobs.get()()
        finally:
            os._exit(1)  # without the watchdog, no work may go on
