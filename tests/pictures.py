"""How far pictures are apart, in levels of 255."""

import numpy as np

from worker.rendering.pipeline import Pictures

BATCH_TOLERANCE = 2
"""By how much a pixel may change with the batch size, since other kernels round differently."""

HALF_PRECISION_MEAN = 2
"""By how much pixels may change with half precision, in the mean."""


def difference(a: Pictures, b: Pictures) -> int:
    """Return the largest difference of a pixel."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def mean_difference(a: Pictures, b: Pictures) -> float:
    """Return the mean difference of the pixels."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())
