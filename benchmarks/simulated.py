"""Render workers without a GPU: `celery -A benchmarks.simulated worker`, and all else about them is real.

This module takes the place of `worker.rendering.pipeline` before anything of the workers is imported. What it
simulates is time: it waits as long as a GPU would compute, asking at each step whether to go on, and then gives
pictures of the real size that are cheap to make. It writes down when it rendered, for `scale`.
"""

import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.modules["worker.rendering.pipeline"] = sys.modules[__name__]

from momalisa.domain.spec import WalkSpec  # noqa: E402
from momalisa.domain.states import Flag  # noqa: E402
from worker.tasks import app  # noqa: E402, F401 - what Celery looks for

CHUNK_SECONDS = float(os.environ["CHUNK_SECONDS"])
"""How long the GPU takes for a batch."""

SPANS = Path(os.environ["SPANS"])
"""The folder for what was written down: a file for each process, with a line for each beginning and each end."""

JITTER = 0.05
"""By which part a batch may take longer or shorter, so that workers do not march in step."""

TRAVEL = 200
"""Pixels by which the picture moves in the course of a walk."""


class Rendering(NamedTuple):
    """As `worker.rendering.pipeline.Rendering`."""

    pictures: NDArray[np.uint8]
    flags: tuple[Flag | None, ...]


class Renderer:
    """As `worker.rendering.pipeline.Renderer`, as far as workers know it."""

    def __init__(self, model: str, **_: Any) -> None:
        self.revision = hashlib.sha256(model.encode()).hexdigest()
        self._spans = (SPANS / str(os.getpid())).open("a", buffering=1)
        self._random = random.Random(os.getpid())  # noqa: S311
        self._first = True

    def warm_up(self, size: int) -> None:
        """Nothing is to be warmed."""

    def warnings(self, spec: WalkSpec) -> list[str]:  # noqa: ARG002
        """Nothing is to be said."""
        return []

    def render(
        self,
        spec: WalkSpec,
        positions: Sequence[float],
        check: Callable[[], None],
        batch_size: int | None = None,  # noqa: ARG002
    ) -> Rendering:
        """Wait for the time of a batch; only a part of it at the first, so that workers do not march in step."""
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
        return Rendering(pictures, (None,) * len(positions))

    def _note(self, what: str) -> None:
        self._spans.write(f"{time.monotonic()} {what}\n")


def _picture(spec: WalkSpec, position: float) -> NDArray[np.uint8]:
    """Return a window of the bands that moves with the position; as PNG it is small and quickly made."""
    left = round(position * TRAVEL)
    return _bands(spec.width, spec.height)[:, left : left + spec.width]


@cache
def _bands(width: int, height: int) -> NDArray[np.uint8]:
    down, across = np.mgrid[0:height, 0 : width + TRAVEL]
    return np.stack([across // 2, down // 2, (across + down) // 4], axis=-1).astype(np.uint8)
