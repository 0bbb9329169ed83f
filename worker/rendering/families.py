"""What differs between the families of models, by the class of their pipeline in diffusers.

The pipelines themselves stay whole: a walk only puts its own embeddings into them. So a row here says under which
names a pipeline takes what its `encode_prompt` returns, and how it is guided. What clients need to know of a family
(sizes, samplers, defaults) is in `momalisa/domain/families.py`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from momalisa.domain import families as known
from worker.rendering import windows
from worker.rendering.embeddings import NEGATIVE, PROMPT, Embedding

POOLED, NEGATIVE_POOLED = "pooled_prompt_embeds", "negative_pooled_prompt_embeds"
MASK, NEGATIVE_MASK = "prompt_attention_mask", "negative_prompt_attention_mask"


@dataclass(frozen=True)
class Family:
    """How the pipelines of one class are used."""

    encoded: tuple[str | None, ...]
    """What `encode_prompt` returns, by the names under which the call takes it; None for what it does not take."""
    negative: Literal["together", "apart"] = "together"
    """Whether a negative prompt is encoded in the same call of `encode_prompt`, or by one of its own."""
    denoiser: Literal["unet", "transformer"] = "transformer"
    """The component that takes most of the time."""
    half: tuple[str, ...] = ("transformer", "vae", "text_encoder")
    """The components that may compute in half precision; text encoders if they are language models."""
    reader: str = "tokenizer"
    """The tokenizer that reads most of a prompt."""
    nothing: str = ""
    """The negative prompt that stands for none."""
    guidance: str = "guidance_scale"
    """The argument that guides."""
    padding: Literal["masked", "weighed"] = "masked"
    """What a mask does: has tokens that only fill up left out, or the others count a little more."""
    compiles: bool = True
    """Whether the blocks that its transformer repeats can be compiled."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """More arguments of the call."""


_UNET: dict[str, Any] = {"denoiser": "unet", "half": ("unet", "vae")}
_NO_BINS: Mapping[str, object] = {"negative_prompt": None, "use_resolution_binning": False}
"""Their negative prompt is "" by default, but None next to embeddings; and sizes are to be rendered as they are."""

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family((PROMPT, NEGATIVE), **_UNET),
    "StableDiffusionXLPipeline": Family((PROMPT, NEGATIVE, POOLED, NEGATIVE_POOLED), **_UNET),
    "LatentConsistencyModelPipeline": Family((PROMPT, None), **_UNET),
    "StableDiffusion3Pipeline": Family(
        (PROMPT, NEGATIVE, POOLED, NEGATIVE_POOLED),
        half=("transformer", "vae", "text_encoder_3"),
        reader="tokenizer_3",
    ),
    "FluxPipeline": Family(
        (PROMPT, POOLED, None),
        half=("transformer", "vae", "text_encoder_2"),
        reader="tokenizer_2",
    ),
    "Flux2KleinPipeline": Family((PROMPT, None), negative="apart"),
    "SanaPipeline": Family((PROMPT, MASK, NEGATIVE, NEGATIVE_MASK), arguments=_NO_BINS),
    "QwenImagePipeline": Family(
        (PROMPT, f"{PROMPT}_mask"),
        negative="apart",
        nothing=" ",
        guidance="true_cfg_scale",
        compiles=False,
    ),
    "ChromaPipeline": Family((PROMPT, None, MASK, NEGATIVE, None, NEGATIVE_MASK), padding="weighed"),
    "PixArtAlphaPipeline": Family((PROMPT, MASK, NEGATIVE, NEGATIVE_MASK), arguments=_NO_BINS),
    "PixArtSigmaPipeline": Family((PROMPT, MASK, NEGATIVE, NEGATIVE_MASK), arguments=_NO_BINS),
}
"""By the class of the pipeline."""


def family_of(index: Mapping[str, Any], model: str) -> Family:
    """Return the family of a model, before any weights are loaded.

    Args:
        index: its `model_index.json`.
        model: its name, for the error.

    Raises:
        ModelError: if walks cannot be rendered with it.
    """
    kind = str(index.get("_class_name"))
    known.family_of(kind, model)
    return FAMILIES[kind]


def _known(pipeline: Any) -> known.Family:
    return known.FAMILIES[type(pipeline).__name__]


def _tokenizer(pipeline: Any, family: Family) -> Any:
    return getattr(pipeline, family.reader, None) or pipeline.tokenizer


def guides(pipeline: Any, guidance: float) -> bool:
    """Return whether a negative prompt, if only an empty one, guides a pipeline at this guidance scale."""
    above = _known(pipeline).negative_above
    return above is not None and guidance > above and not pipeline.config.get("is_distilled", False)


def cut_off(pipeline: Any, family: Family, prompt: str) -> str | None:
    """Return the beginning of a prompt that a pipeline reads; None if it reads all."""
    described, tokenizer = _known(pipeline), _tokenizer(pipeline, family)
    if described.emphasis:
        return windows.read(tokenizer, prompt, described.windows).cut_off
    room = (described.tokens or tokenizer.model_max_length) - tokenizer.num_special_tokens_to_add()
    rest = windows.tokens(tokenizer, prompt)[room:]
    return prompt[: rest[0].start] if rest else None


def encode(
    pipeline: Any, family: Family, prompt: str, negative_prompt: str | None, device: torch.device
) -> Embedding:
    """Return the embedding of a prompt as the pipeline would make it, in float32 on the CPU.

    Args:
        pipeline: of diffusers.
        family: of the pipeline.
        prompt: to encode.
        negative_prompt: what to guide away from, "" for nothing particular; None without such guidance.
        device: where the pipeline computes.
    """

    def stock(text: str, negative: str | None) -> Embedding:
        return _encode(pipeline, family, text, negative, device)

    described = _known(pipeline)
    if described.emphasis:
        read = partial(windows.read, _tokenizer(pipeline, family), most=described.windows)
        negatives = None if negative_prompt is None else read(negative_prompt).windows
        return windows.embed(stock, read(prompt).windows, negatives)
    apart = family.negative == "apart"
    embedding = stock(prompt, None if apart else negative_prompt)
    if apart and negative_prompt is not None:
        found = stock(negative_prompt or family.nothing, None)
        embedding |= {f"negative_{name}": tensor for name, tensor in found.items()}
    return embedding


def _encode(
    pipeline: Any, family: Family, prompt: str, negative_prompt: str | None, device: torch.device
) -> Embedding:
    defaults = inspect.signature(pipeline.__call__).parameters
    given = {
        "prompt": prompt,
        "device": device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": negative_prompt is not None,
    }
    if negative_prompt:
        given["negative_prompt"] = negative_prompt
    arguments = {
        name: given[name]
        if name in given
        else defaults[name].default  # not always what `encode_prompt` defaults to
        for name in inspect.signature(pipeline.encode_prompt).parameters
        if name in given or name in defaults
    }
    with torch.inference_mode():
        encoded = pipeline.encode_prompt(**arguments)
    named = dict(zip(family.encoded, encoded, strict=True))
    if (mask := f"{PROMPT}_mask") in named and named[mask] is None:  # which means that it has no padding
        named[mask] = torch.ones(named[PROMPT].shape[:2])
    return {
        name: tensor.to("cpu", torch.float32)
        for name, tensor in named.items()
        if name is not None and tensor is not None
    }
