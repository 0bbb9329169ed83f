"""Cancelling work in progress, in all of its threads."""

import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 8
"""Of `run_concurrently`."""

POLL_SECONDS = 0.2


class CancellationToken(ABC):
    """The right to do some work, which may be cancelled at any time."""

    rendered = 0
    """Number of frames that were rendered."""
    to_record = 0
    """Number of these frames that will be recorded."""

    @abstractmethod
    def raise_if_cancelled(self) -> None:
        """Raise if the work was cancelled; unlike `checkpoint`, this records no progress."""

    def checkpoint(self) -> None:
        """Record progress, and raise if the work was cancelled.

        Cheap: call it at every step. Work counts as hung if it reaches no checkpoint for STALL_SECONDS.
        """
        self.raise_if_cancelled()

    @abstractmethod
    def verify(self) -> None:
        """Raise unless it is certain that the work is still ours."""

    def run_concurrently(self, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """Return the results of a function for each set of arguments, computed in several threads.

        If the work is cancelled, this does not wait for running calls: they end at their next checkpoint, and
        whatever they complete until then does no harm.
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
