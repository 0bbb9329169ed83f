"""What pictures should be, and how far they are apart, in levels of 255."""

import inspect
from typing import Any

import numpy as np
import torch

from momalisa.domain.spec import WalkSpec
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


def stock_picture(stock: Any, spec: WalkSpec, prompt: str, seed: int) -> Pictures:
    """Return what a pipeline of diffusers, used as its authors say, renders at a stop of a walk."""
    takes = inspect.signature(stock.__call__).parameters
    arguments: dict[str, Any] = {"use_resolution_binning": False} if "use_resolution_binning" in takes else {}
    if spec.negative_prompt and "negative_prompt" in takes:
        arguments["negative_prompt"] = spec.negative_prompt
    elif "true_cfg_scale" in takes and "prompt_embeds_mask" in takes:
        arguments["negative_prompt"] = " "  # as its authors say, for none
    elif spec.negative_prompt and "negative_prompt_embeds" in takes:
        arguments["negative_prompt_embeds"] = stock.encode_prompt(spec.negative_prompt)[0]
    images = stock(
        prompt=prompt,
        num_inference_steps=spec.steps,
        width=spec.width,
        height=spec.height,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
        **{"true_cfg_scale" if "QwenImage" in type(stock).__name__ else "guidance_scale": spec.guidance},
        **arguments,
    ).images
    pictures: Pictures = (np.nan_to_num(images[0]) * 255).round().astype(np.uint8)
    return pictures
