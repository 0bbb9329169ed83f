"""What a device has memory for: how large a batch may be, and how much of it is decoded at once."""

import gc
from typing import Any

import torch

from momalisa.settings import Offload
from momalisa.telemetry import metrics

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
