"""From latents to pictures: what a stock pipeline does last, by itself.

The frames between denoised ones are only decoded. So this repeats the end of the pipelines, which is the same for
most families; `Renderer.warm_up` compares both, byte for byte, and a model whose pipeline ends otherwise has no
interpolated frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Images = NDArray[np.float32]
"""Shape (frames, height, width, 3), RGB in [0, 1]."""

VIDEO = 5
"""Dimensions of what the decoders of videos make: of a picture, the third has length 1."""


def watch(vae: Any) -> list[torch.Tensor]:
    """Return a list that always holds what a decoder was last given: latents, shape (frames, channels, …)."""
    decode, given = vae.decode, list[torch.Tensor]()

    def decode_watched(latents: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        given[:] = [latents]
        return decode(latents, *arguments, **named)

    vae.decode = decode_watched
    return given


def decode(pipeline: Any, latents: torch.Tensor) -> tuple[Images, Sequence[bool] | None]:
    """Return the pictures of latents, and which of them the safety checker flags; None without a checker.

    Args:
        pipeline: of diffusers.
        latents: as a pipeline gives them to its decoder.
    """
    vae, unsafe, shown = pipeline.vae, None, None
    # Only the pipelines of SDXL have this method, and decode in float32 where the model asks for that.
    upcasts = hasattr(pipeline, "upcast_vae") and vae.dtype == torch.float16 and vae.config.force_upcast
    with torch.inference_mode():
        if upcasts:
            vae.to(torch.float32)
        try:
            pictures = vae.decode(latents, return_dict=False)[0]
        finally:
            if upcasts:
                vae.to(torch.float16)
        if pictures.ndim == VIDEO:
            pictures = pictures[:, :, 0]
        if hasattr(pipeline, "run_safety_checker"):
            pictures, unsafe = pipeline.run_safety_checker(pictures, latents.device, torch.float32)
            shown = [not flagged for flagged in unsafe or [False] * len(pictures)]
        images: Images = pipeline.image_processor.postprocess(pictures, output_type="np", do_denormalize=shown)
    pipeline.maybe_free_model_hooks()
    return images, unsafe
