"""The start of a worker: if it cannot work, it says why in one sentence, and exits.

Celery replaces each child that ends, without a limit. So a child that cannot start leaves the reason in shared
memory. After a few failures with the same reason the worker itself exits, with a code that says that a restart
would not help.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Never

from pydantic import ValidationError

from momalisa import settings
from momalisa.errors import MomalisaError
from momalisa.local.processes import CANNOT_WORK
from momalisa.telemetry.logging import logger
from worker.process.shared_memory import Shared

log = logger(__name__)

MAX_FAILURES = 3
"""Number of consecutive failures with the same reason after which the worker exits."""

MAX_SENTENCE_LENGTH = 600

KILLED = (
    "The process was killed during its start: most likely its machine or container ran out of memory. Give it more "
    "memory, or choose a smaller model."
)

_HUB = {
    "GatedRepoError": "Access to this model on the Hub is restricted: accept its terms on its page there, and set "
    "HF_TOKEN to a token of the same account.",
    "RevisionNotFoundError": "The model has no such revision on the Hub.",
    "RepositoryNotFoundError": "The Hub has no model of this name, or it is private: check the spelling, or set "
    "HF_TOKEN to a token that may read it.",
    "DisabledRepoError": "The Hub has disabled this model.",
}
"""Explanations of huggingface_hub's errors, by class name: the library is imported only where a model is loaded."""


class Progress(NamedTuple):
    """The progress of a worker's children in starting."""

    failures: int = 0
    """Consecutive failures with the same reason."""
    reason: str = ""
    """Reason of the last failure, as a sentence."""
    started: bool = False
    """Whether a child is starting, or was killed during its start."""


class Startup:
    """Failed starts of a worker, in memory that its processes share; created before the fork."""

    def __init__(self) -> None:
        self._progress: Shared[list[int | str | bool]] = Shared(list(Progress()))

    def _get(self) -> Progress:
        return Progress(*self._progress.get())  # type: ignore[arg-type] # JSON has no tuples of several types

    def _set(self, progress: Progress) -> Progress:
        self._progress.set(list(progress))
        return progress

    def failure(self) -> str | None:
        """Return why the last child could not start, or None if it did."""
        return self._get().reason or None

    @contextmanager
    def in_child(self, model: str | None) -> Iterator[None]:
        """Run the start of a forked process in a block; any error ends the process.

        Args:
            model: the model that it loads; None if it loads none.
        """
        before = self._get()
        if before.started:
            before = self._record(KILLED)
        if before.failures >= MAX_FAILURES:
            _end_worker()
        self._set(before._replace(started=True))
        try:
            yield
        except Exception as error:
            reason = explain(error)
            now = self._record(reason if model is None or model in reason else f"The model {model}: {reason}")
            known = isinstance(error, MomalisaError)
            log.critical("cannot start", reason=now.reason, failures=now.failures, exc_info=not known)
            if now.failures >= MAX_FAILURES:
                _end_worker()
            raise SystemExit(CANNOT_WORK) from error
        self._set(Progress())

    @contextmanager
    def in_parent(self) -> Iterator[None]:
        """Run a part of the parent's start in a block; an error ends the worker, where Celery would only log it."""
        try:
            yield
        except Exception as error:
            self._set(Progress(MAX_FAILURES, explain(error)))
            raise SystemExit(CANNOT_WORK) from error

    def exit_code(self, code: object) -> int:
        """Return the exit code of a worker that ended with `code`; if it could not start, say why."""
        progress = self._get()
        if progress.failures >= MAX_FAILURES:
            return refuse(progress.reason)
        return code if isinstance(code, int) else int(code is not None)

    def _record(self, reason: str) -> Progress:
        """Record a failure; reasons that differ only in digits count as the same."""
        before = self._get()
        equal = re.sub(r"\d+", "", reason) == re.sub(r"\d+", "", before.reason)
        return self._set(Progress(before.failures + 1 if equal else 1, reason))


def refuse(reason: str) -> int:
    """Say why a worker cannot start, as the last line of its output, and return its exit code."""
    log.critical("worker cannot start", reason=reason)
    print(reason, file=sys.stderr)  # noqa: T201 - for people and programs that read the end of its log
    return CANNOT_WORK


def _end_worker() -> Never:
    """End this process and its parent, which may fork another child before it handles the signal."""
    os.kill(os.getppid(), signal.SIGTERM)
    raise SystemExit(CANNOT_WORK)


def explain(error: BaseException) -> str:
    """Explain an error in a sentence or two, including its root cause."""
    if isinstance(error, ValidationError):
        return settings.explain(error)
    chain = [error]
    while (cause := _cause(chain[-1])) and cause not in chain:
        chain.append(cause)
    for each in reversed(chain):
        for kind in type(each).__mro__:
            if kind.__name__ in _HUB:
                return _HUB[kind.__name__]
    if any("OutOfMemoryError" in type(each).__name__ or isinstance(each, MemoryError) for each in chain):
        return f"Memory ran out: {_sentence(error)} Lower BATCH_SIZE or IMAGE_SIZE, or choose a smaller model."
    if isinstance(error, MomalisaError) and _sentence(chain[-1]) in _sentence(error):
        return _sentence(error)
    deepest = f"{type(chain[-1]).__name__}: {_sentence(chain[-1])}"
    return deepest if len(chain) == 1 else f"{_sentence(error)} ({deepest})"


def _cause(error: BaseException) -> BaseException | None:
    """Return what led to an error, unless it was raised `from None`."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _sentence(error: BaseException) -> str:
    """Return the message of an error in one line that ends like a sentence, shortened if it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > MAX_SENTENCE_LENGTH:
        text = f"{text[:MAX_SENTENCE_LENGTH]} …"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
