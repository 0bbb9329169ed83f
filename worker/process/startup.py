"""The beginning of a worker: either it can work, or it says in one sentence why not, and ends.

Celery forks another process as soon as one has ended, for ever. So each of them leaves in memory that they share
why it could not begin; after a few equal failures the worker itself ends, with an exit code that says that it would
fare no better if it were started again.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never

from pydantic import ValidationError

from momalisa.errors import MomalisaError
from momalisa.local.processes import CANNOT_WORK
from momalisa.telemetry.logging import logger
from worker.process.shared_memory import Shared

log = logger(__name__)

TIMES = 3
"""After as many equal failures in a row there is no hope."""

LONGEST_SENTENCE = 600

KILLED = (
    "The process that begins to work was killed before it could say why: most likely its machine or container ran "
    "out of memory. Give it more, or choose a smaller model."
)

_HUB = {
    "GatedRepoError": "The Hub keeps this model for those who accepted its terms: accept them on its page there, "
    "and set HF_TOKEN to a token of the same account.",
    "RevisionNotFoundError": "The model has no such revision on the Hub.",
    "RepositoryNotFoundError": "The Hub knows no model of this name, or it is private: look at its spelling, or "
    "set HF_TOKEN to a token of somebody who may read it.",
    "DisabledRepoError": "The Hub has locked this model.",
    "OfflineModeIsEnabled": "It is not on this machine, and HF_HUB_OFFLINE forbids to fetch it.",
    "RemoteEntryNotFoundError": "The Hub has no pipeline of diffusers under this name.",
}
"""What the classes of huggingface_hub say, by their names: it is imported only where a model is loaded."""

_notes: Shared[tuple[int, str, bool]] = Shared((0, "", False))
"""How often in a row it failed, with which sentence, and whether a process is at it or died at it."""


def failure() -> str | None:
    """Return why the last process could not begin, or None if it could."""
    return _notes.get()[1] or None


@contextmanager
def in_child(model: str | None) -> Iterator[None]:
    """Have a block bring a forked process to where it can work; whatever goes wrong ends the process.

    Args:
        model: name of the model that it loads, if it does.
    """
    count, sentence, begun = _notes.get()
    if begun:
        count, sentence = _count(KILLED)
    if count >= TIMES:
        _end_worker()
    _notes.set((count, sentence, True))
    try:
        yield
    except Exception as error:
        words = explain(error)
        count, sentence = _count(words if model is None or model in words else f"The model {model}: {words}")
        log.critical("cannot begin", reason=sentence, times=count, exc_info=not isinstance(error, MomalisaError))
        if count >= TIMES:
            _end_worker()
        raise SystemExit(CANNOT_WORK) from error
    _notes.set((0, "", False))


@contextmanager
def in_parent() -> Iterator[None]:
    """Have a block prepare a worker; whatever goes wrong ends it (Celery would log it and go on)."""
    try:
        yield
    except Exception as error:
        _notes.set((TIMES, explain(error), False))
        raise SystemExit(CANNOT_WORK) from error


def exit_code(code: object) -> int:
    """Return the exit code of a worker that ended with `code`; one that cannot work says why, last of all."""
    count, sentence, _ = _notes.get()
    if count < TIMES:
        return code if isinstance(code, int) else int(code is not None)
    log.critical("this worker cannot work, so it ends", reason=sentence)
    print(sentence, file=sys.stderr)  # noqa: T201 - for people and programs that look at the end of its log
    return CANNOT_WORK


def _count(sentence: str) -> tuple[int, str]:
    """Note a failure; the same one again counts, whatever numbers are in it."""
    count, before, _ = _notes.get()
    count = count + 1 if re.sub(r"\d+", "", sentence) == re.sub(r"\d+", "", before) else 1
    _notes.set((count, sentence, False))
    return count, sentence


def _end_worker() -> Never:
    """End this process and its parent, which may fork another one before it heeds that."""
    os.kill(os.getppid(), signal.SIGTERM)
    raise SystemExit(CANNOT_WORK)


def explain(error: BaseException) -> str:
    """Return what went wrong as a sentence or two, with the deepest cause that explains it."""
    if isinstance(error, ValidationError):
        wrong = (f"{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}." for item in error.errors())
        return "The settings are not valid. " + " ".join(wrong)
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    for each in reversed(chain):
        for kind in type(each).__mro__:
            if kind.__name__ in _HUB:
                return _HUB[kind.__name__]
    if any("OutOfMemoryError" in type(each).__name__ or isinstance(each, MemoryError) for each in chain):
        return f"Memory ran out: {_text(error)} Lower BATCH_SIZE or IMAGE_SIZE, or choose a smaller model."
    if isinstance(error, MomalisaError) and _text(chain[-1]) in _text(error):
        return _text(error)
    deepest = f"{type(chain[-1]).__name__}: {_text(chain[-1])}"
    return deepest if len(chain) == 1 else f"{_text(error)} ({deepest})"


def _text(error: BaseException) -> str:
    """Return what an error says in one line that ends like a sentence, and is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > LONGEST_SENTENCE:
        text = f"{text[:LONGEST_SENTENCE]} …"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
