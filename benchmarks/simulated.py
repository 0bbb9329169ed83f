"""Render workers without a GPU: `celery -A benchmarks.simulated worker`; everything else about them is real.

This module replaces `worker.rendering.pipeline` before any module of the workers is imported. It simulates time: it
waits as long as a GPU would compute, with a check at each step, and then returns pictures of the real size that are
cheap to make. It records when it rendered, for `scale`.
"""

import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.modules["worker.rendering.pipeline"] = sys.modules[__name__]

from momalisa.domain.pins import MadeWith  # noqa: E402
from momalisa.domain.spec import WalkSpec  # noqa: E402
from momalisa.domain.states import Flag  # noqa: E402
from worker.rendering import construction, families  # noqa: E402, F401 - once, and not in each child after the fork
from worker.tasks import app, worker  # noqa: E402, F401 - Celery's app

# A worker has one child. Here many start at the same time, and would take each other for killed during their start.
worker.startup.in_child = lambda _model: nullcontext()  # type: ignore[assignment, method-assign, return-value]

CHUNK_SECONDS = float(os.environ["CHUNK_SECONDS"])
"""Seconds that the GPU takes for a batch."""

SPANS = Path(os.environ["SPANS"])
"""The folder of records: one file per process, with a line for each start and each end."""

JITTER = 0.05
"""Random variation of the time of a batch, so that workers do not run in lockstep."""

TRAVEL = 200
"""Pixels by which the picture moves over a walk."""


class Rendering(NamedTuple):
    """Like `worker.rendering.pipeline.Rendering`."""

    pictures: NDArray[np.uint8]
    flags: tuple[Flag | None, ...]
    batch_size: int
    latents: None = None


class Renderer:
    """Like `worker.rendering.pipeline.Renderer`, with the methods that workers use."""

    dense = False

    def __init__(self, model: str, **_: Any) -> None:
        revision = hashlib.sha256(model.encode()).hexdigest()
        self.made_with = MadeWith(revision=revision, dtype="uint8", device="simulated")
        self._spans = (SPANS / str(os.getpid())).open("a", buffering=1)
        self._random = random.Random(os.getpid())  # noqa: S311
        self._first = True

    def warm_up(self, size: int) -> None:
        """Do nothing."""

    def warnings(self, spec: WalkSpec) -> list[str]:  # noqa: ARG002
        """Return no warnings."""
        return []

    def render(
        self,
        spec: WalkSpec,
        positions: Sequence[float],
        check: Callable[[], None],
        batch_size: int | None = None,
    ) -> Rendering:
        """Wait for the time of a batch; at first only for a part of it, so that workers do not run in lockstep."""
        seconds = CHUNK_SECONDS * self._random.uniform(1 - JITTER, 1 + JITTER)
        if self._first:
            seconds *= self._random.random()
            self._first = False
        self._note("begin")
        try:
            for _ in range(spec.steps):
                check()
                time.sleep(seconds / spec.steps)
        finally:
            self._note("end")
        pictures = np.stack([_picture(spec, position) for position in positions])
        return Rendering(pictures, (None,) * len(positions), batch_size or len(positions))

    def _note(self, what: str) -> None:
        self._spans.write(f"{time.monotonic()} {what}\n")


def _picture(spec: WalkSpec, position: float) -> NDArray[np.uint8]:
    """Return a window of the bands that moves with the position; it is fast to encode, and small as PNG."""
    left = round(position * TRAVEL)
    return _bands(spec.width, spec.height)[:, left : left + spec.width]


@cache
def _bands(width: int, height: int) -> NDArray[np.uint8]:
    down, across = np.mgrid[0:height, 0 : width + TRAVEL]
    return np.stack([across // 2, down // 2, (across + down) // 4], axis=-1).astype(np.uint8)
