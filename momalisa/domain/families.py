"""The families of models that can render walks, by the class of their pipeline in diffusers.

What is here needs no torch; how a family encodes prompts and renders is in `worker/rendering/`. Steps and guidance
are those of the pipeline's own `__call__`, except that 50 steps, the oldest habit, are 20 for Stable Diffusion and
30 for its successors, which gives almost the same picture.
"""

from dataclasses import dataclass
from typing import Any

from momalisa.errors import ModelError


@dataclass(frozen=True)
class Family:
    """What the models of a family have in common, where their own files do not say otherwise."""

    title: str
    """For people."""
    steps: int
    guidance: float
    size: int | None = None
    """Width and height in pixels, where no configuration has it."""
    multiple: int = 8
    """Width and height are multiples of so many pixels."""
    negative_above: float | None = 1.0
    """With more guidance than this a negative prompt has an effect; None: it never has."""
    samplers: bool = True
    """Whether a walk may choose a sampler: the flow models render with their own only."""
    tokens: int | None = None
    """How many tokens the pipeline reads, where that is not a matter of its tokenizer."""
    fewest_steps: int = 1
    emphasis: bool = False
    """Whether weights in prompts are read (`domain.prompts`)."""
    windows: int = 1
    """How many windows of that many tokens a prompt may fill. A power of two: shorter prompts are repeated."""


MOST_WINDOWS = 8
"""Of CLIP, which reads about 55 words in each: enough for the 2,000 characters of a prompt in English."""

_CLIP: dict[str, Any] = {"emphasis": True, "windows": MOST_WINDOWS}

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family("Stable Diffusion 1 and 2", 20, 7.5, **_CLIP),
    "StableDiffusionXLPipeline": Family("Stable Diffusion XL", 30, 5.0, **_CLIP),
    "LatentConsistencyModelPipeline": Family("LCM", 4, 8.5, negative_above=None, samplers=False, **_CLIP),
    "StableDiffusion3Pipeline": Family("Stable Diffusion 3", 28, 7.0, multiple=16, samplers=False, tokens=256),
    "FluxPipeline": Family("FLUX.1", 28, 3.5, 1024, multiple=16, negative_above=None, samplers=False, tokens=512),
    "Flux2KleinPipeline": Family("FLUX.2 klein", 30, 4.0, 1024, multiple=16, samplers=False, tokens=512),
    "SanaPipeline": Family("Sana", 20, 4.5, multiple=32, samplers=False, tokens=300),
    "PixArtAlphaPipeline": Family("PixArt-α", 20, 4.5, samplers=False, tokens=120, fewest_steps=2),
    "PixArtSigmaPipeline": Family("PixArt-Σ", 20, 4.5, samplers=False, tokens=300),
    "QwenImagePipeline": Family(
        "Qwen-Image", 30, 4.0, 1024, multiple=16, samplers=False, tokens=512, fewest_steps=2
    ),
    "ChromaPipeline": Family("Chroma", 35, 5.0, 1024, multiple=16, samplers=False, tokens=512),
}


def family_of(pipeline: str, model: str) -> Family:
    """Return the family of a model.

    Args:
        pipeline: the class of its pipeline, as its `model_index.json` names it.
        model: its name, for the error.

    Raises:
        ModelError: if walks cannot be rendered with it.
    """
    if pipeline not in FAMILIES:
        titles = [family.title for family in FAMILIES.values()]
        raise ModelError(
            f"{pipeline} of {model!r} cannot render walks. Supported are text-to-image pipelines of "
            f"{', '.join(titles[:-1])} and {titles[-1]} ({', '.join(sorted(FAMILIES))})."
        )
    return FAMILIES[pipeline]
