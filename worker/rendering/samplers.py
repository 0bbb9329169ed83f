"""The samplers (diffusers calls them schedulers) that can render walks."""

from typing import Any

import diffusers

from momalisa.domain.spec import Scheduler

DETERMINISTIC_SCHEDULERS = frozenset(
    {
        "DDIMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Samplers that draw no noise while they run: equal embeddings give equal pictures at every attempt."""

SCHEDULERS: dict[Scheduler, str] = {
    "ddim": "DDIMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""The diffusers classes behind the names that a walk can choose."""

DEFAULTS: dict[Scheduler, tuple[str, object]] = {"ddim": ("clip_sample", False), "pndm": ("skip_prk_steps", True)}
"""Options for latent models and few steps, where the configuration of the model does not set them."""

PRK_STEPS = 4
"""With fewer steps, PNDM cannot use its Runge-Kutta start, so `skip_prk_steps` is set."""


def is_deterministic(scheduler: Any) -> bool:
    """Return whether a sampler draws no noise while it runs."""
    sde = "sde" in scheduler.config.get("algorithm_type", "")
    return type(scheduler).__name__ in DETERMINISTIC_SCHEDULERS and not sde


def make_sampler(own: Any, name: Scheduler | None, steps: int) -> Any:
    """Return the sampler of a walk.

    Args:
        own: the model's own sampler; others get its configuration.
        name: the sampler that the walk chose; None means the model's own.
        steps: denoising steps of the walk.
    """
    changes: dict[str, object] = {}
    kind = type(own) if name is None else getattr(diffusers, SCHEDULERS[name])
    if name in DEFAULTS and DEFAULTS[name][0] not in own.config:
        changes = dict([DEFAULTS[name]])
    if kind is diffusers.PNDMScheduler and steps < PRK_STEPS:
        changes = {"skip_prk_steps": True}
    return own if name is None and not changes else kind.from_config(own.config, **changes)
