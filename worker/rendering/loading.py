"""Loading a model as a diffusers pipeline, and refusing one that cannot render walks."""

import inspect
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from momalisa.errors import ModelError
from worker.rendering.layers import fastest_dtype, use_own_dtype, use_short_attention
from worker.rendering.malloc import keep_memory
from worker.rendering.samplers import DETERMINISTIC_SCHEDULERS, is_deterministic

for _library in (diffusers, transformers):  # their own handlers and bars would write plain lines among the JSON
    _library.utils.logging.disable_default_handler()
    _library.utils.logging.enable_propagation()
    _library.utils.logging.disable_progress_bar()


def load_pipeline(model: str, device: torch.device, dtype: str) -> Any:
    """Return the pipeline of a model, on a device and ready to render walks.

    Args:
        model: a folder, or a name on the Hub.
        device: where it computes.
        dtype: name of the number format of the denoiser and the decoder; "auto" means half precision where it is
            fast.

    Raises:
        ModelError: if it cannot be loaded, or cannot render walks.
    """
    half = fastest_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    dtypes = {"unet": half, "vae": half, "default": torch.float32}
    try:
        index = DiffusionPipeline.load_config(model)
        if "unet" not in index:  # checked before gigabytes are loaded
            kind = index.get("_class_name", "The pipeline")
            raise ModelError(f"{kind} of {model!r} is not a pipeline of the Stable Diffusion family.")
        pipeline = DiffusionPipeline.from_pretrained(model, dtype=dtypes, low_cpu_mem_usage=False).to(device)
    except (ModelError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a broken file fails in any of several libraries
        raise ModelError(f"The model {model!r} cannot be loaded: {error}") from error
    _refuse_unsuitable(pipeline, model)
    pipeline.set_progress_bar_config(disable=True)
    if device.type == "cpu":
        keep_memory()
        use_short_attention(pipeline.unet)
    use_own_dtype(pipeline.unet)
    use_own_dtype(pipeline.vae.decoder)
    if getattr(pipeline.vae, "post_quant_conv", None) is not None:
        use_own_dtype(pipeline.vae.post_quant_conv)
    return pipeline


def _refuse_unsuitable(pipeline: Any, model: str) -> None:
    """Raise ModelError unless a pipeline makes pictures from text, and does so reproducibly."""
    if "image" in inspect.signature(pipeline.__call__).parameters:
        kind = type(pipeline).__name__
        raise ModelError(f"{kind} of {model!r} needs an input image; walks need a text-to-image pipeline.")
    if not is_deterministic(pipeline.scheduler):
        raise ModelError(
            f"The scheduler {type(pipeline.scheduler).__name__} of {model!r} draws noise at each step or is "
            f"unknown; walks need one of {', '.join(sorted(DETERMINISTIC_SCHEDULERS))}."
        )
