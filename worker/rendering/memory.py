"""What a device has memory for: how large a batch may be, and how much of it is decoded at once."""

import gc
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from momalisa.settings import Offload
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import logger

log = logger(__name__)

Result = TypeVar("Result")

SLICED_PIXELS = 512 * 512
"""Frames of so many pixels or more are decoded one by one: the same pixels, in a fraction of the memory."""

TILED_PIXELS = 1024 * 1024
"""Frames larger than this are decoded in tiles that overlap, which changes pixels a little."""

WORDS = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
"""In what PyTorch and NVIDIA's libraries say without an error class of its own."""


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that the memory of the device or of this machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


class BatchLimit:
    """How many frames are computed at once: as many as wanted, but fewer for good once memory ran out for them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.most_pixels = math.inf
        """How many pixels a batch may have; finite once memory ran out."""

    def fitting(self, wanted: int, pixels: int) -> int:
        """Return how many frames of so many pixels are computed at once where `wanted` would be."""
        while wanted > 1 and wanted * pixels > self.most_pixels:
            wanted //= 2
        return wanted

    def run(
        self,
        compute: Callable[[slice, int], Result],
        frames: int,
        wanted: int,
        pixels: int,
    ) -> tuple[list[Result], int]:
        """Compute frames in as few batches as possible; if memory runs out, again in batches of half the size.

        Args:
            compute: called with which of the frames are in a batch, and the size to pad it to.
            frames: how many there are, at least one.
            wanted: how many to compute at once.
            pixels: of each frame.

        Returns:
            The result of each batch, and the size of the batches.
        """
        while True:
            size = self.fitting(wanted, pixels)
            try:
                return [compute(slice(start, start + size), size) for start in range(0, frames, size)], size
            except Exception as error:
                if size == 1 or not ran_out(error):
                    raise
                reason = str(error)
            # Outside the block, since the error holds on to the tensors of the batch.
            self.most_pixels = size // 2 * pixels
            log.warning("memory ran out, batch halved", batch=size, reason=reason)
            metrics.record(metrics.BATCHES_HALVED)
            free(self._device)


def free(device: torch.device) -> None:
    """Give the memory that PyTorch keeps for later back to the device."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def place(pipeline: Any, device: torch.device, offload: Offload) -> None:
    """Move a pipeline to a device: all of it, or each part when it computes."""
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)


def fit_decoder(vae: Any, pixels: int) -> None:
    """Have a decoder slice and tile batches of frames of so many pixels."""
    (vae.enable_slicing if pixels >= SLICED_PIXELS else vae.disable_slicing)()
    (vae.enable_tiling if pixels > TILED_PIXELS else vae.disable_tiling)()


def report(device: torch.device) -> None:
    """Record how much memory of a GPU this process uses, and how much the GPU has."""
    if device.type != "cuda":
        return
    _, total = torch.cuda.mem_get_info(device)
    for state, size in (
        ("allocated", torch.cuda.memory_allocated(device)),
        ("peak", torch.cuda.max_memory_allocated(device)),
        ("reserved", torch.cuda.memory_reserved(device)),
        ("total", total),
    ):
        metrics.record(metrics.GPU_MEMORY_BYTES, size, state=state)
