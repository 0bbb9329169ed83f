"""Cancelling work in progress, in all of its threads."""

import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 8
"""Of `run_concurrently`: for transfers, which mostly wait, or artifacts."""

POLL_SECONDS = 0.2


class CancellationToken(ABC):
    """The right to do some work, which may end at any time."""

    rendered = 0
    """Frames that a model rendered under it."""
    to_record = 0
    """Of them, those that are to be recorded."""

    @abstractmethod
    def raise_if_cancelled(self) -> None:
        """Raise if the work should end; for code that only waits for the work."""

    def checkpoint(self) -> None:
        """Record progress, and raise if the work should end.

        Cheap: call it at every step. Work without a checkpoint for long counts as hung.
        """
        self.raise_if_cancelled()

    @abstractmethod
    def verify(self) -> None:
        """Raise unless the work is certainly still ours."""

    def run_concurrently(self, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """Return the results of a function for each set of arguments, computed in several threads.

        When the work is cancelled, it does not wait for running calls: they end at their next checkpoint, and what
        they finish does no harm.
        """
        pool = ThreadPoolExecutor(THREADS)
        try:
            futures = [
                pool.submit(contextvars.copy_context().run, function, *each)
                for each in zip(*arguments, strict=True)
            ]
            pending = set(futures)
            while pending:
                self.raise_if_cancelled()
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
