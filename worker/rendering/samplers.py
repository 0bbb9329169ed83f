"""The samplers (diffusers calls them schedulers) that can render walks."""

from typing import Any

import diffusers

from momalisa.domain.spec import Scheduler
from momalisa.errors import ModelError

KNOWN = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Samplers that can render walks: all their noise comes from the generator of each frame."""

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

NOISELESS: dict[Scheduler, str] = {"deis": "deis", "dpmpp_2m": "dpmsolver++"}
"""The variants of samplers that must not take over one that draws noise at each step from the model's own."""

PRK_STEPS = 4
"""With fewer steps, PNDM cannot use its Runge-Kutta start, so `skip_prk_steps` is set."""


def refuse_unknown(kind: str, model: str) -> None:
    """Raise ModelError unless the sampler of a model draws the same noise for every frame."""
    if kind not in KNOWN:
        raise ModelError(
            f"The scheduler {kind} of {model!r} is unknown, or draws noise that no seed decides; a walk needs one "
            f"of {', '.join(sorted(KNOWN))}."
        )


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
    if name in NOISELESS and "sde" in own.config.get("algorithm_type", ""):
        changes["algorithm_type"] = NOISELESS[name]
    if kind is diffusers.PNDMScheduler and steps < PRK_STEPS:
        changes = {"skip_prk_steps": True}
    return own if name is None and not changes else kind.from_config(own.config, **changes)
