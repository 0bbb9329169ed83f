"""Loading a model as a diffusers pipeline, and refusing one that cannot render walks."""

from typing import Any

import diffusers
import torch
import transformers

from momalisa.description import INDEX, read_json
from momalisa.errors import ModelError
from momalisa.location import locate
from worker.rendering.additions import NONE, Additions
from worker.rendering.construction import configuration, construct
from worker.rendering.embeddings import PROMPT
from worker.rendering.families import Family, family_of
from worker.rendering.layers import fastest_dtype, keep_soft_masks, use_own_dtype, use_short_attention
from worker.rendering.malloc import keep_memory
from worker.rendering.samplers import refuse_unknown

for _library in (diffusers, transformers):  # their own handlers and bars would write plain lines among the JSON
    _library.utils.logging.disable_default_handler()
    _library.utils.logging.enable_propagation()
    _library.utils.logging.disable_progress_bar()


def load_pipeline(model: str, device: torch.device, dtype: str, additions: Additions = NONE) -> tuple[Any, Family]:
    """Return the pipeline of a model, ready to render walks once it is on its device, and its family.

    Args:
        model: a folder, a file, or a name on the Hub.
        device: where it will compute.
        dtype: name of the number format of the denoiser, the decoder and large text encoders; "auto" means half
            precision where it is fast.
        additions: what is added to the model.

    Raises:
        ModelError: if it cannot be loaded, or cannot render walks.
    """
    try:
        place = locate(model)
        index = read_json(configuration(place) / INDEX)
        family = family_of(index, model)  # checked before gigabytes are loaded
        refuse_unknown(index["scheduler"][1], model)
        half = fastest_dtype(device, family.denoiser) if dtype == "auto" else getattr(torch, dtype)
        dtypes = {"default": torch.float32, **dict.fromkeys(family.half, half)}
        pipeline = construct(place, dtypes, additions)
    except (ModelError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a broken file fails in any of several libraries
        raise ModelError(f"The model {model!r} cannot be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    if device.type == "cpu":
        keep_memory()
        if family.denoiser == "unet":
            use_short_attention(pipeline.unet)
    use_own_dtype(getattr(pipeline, family.denoiser))
    if f"{PROMPT}_mask" in family.encoded:
        keep_soft_masks(pipeline.transformer)
    use_own_dtype(pipeline.vae.decoder)
    if getattr(pipeline.vae, "post_quant_conv", None) is not None:
        use_own_dtype(pipeline.vae.post_quant_conv)
    return pipeline, family
