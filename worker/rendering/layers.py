"""How the layers of a model compute: number format, memory layout and attention."""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from worker.rendering.embeddings import FULL_BIAS

FEW_TOKENS = 256
"""Up to this many per picture, attention on a CPU is faster as plain products than in PyTorch's fused form."""

VIDEO = 5
"""Dimensions of the weights of a convolution over pictures in a row, which have another memory layout."""


def best_device() -> str:
    """Return the name of the fastest kind of device that PyTorch finds here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fastest_dtype(device: torch.device, denoiser: str) -> torch.dtype:
    """Return the number format in which a device computes fastest, with enough precision.

    Args:
        device: where it computes.
        denoiser: the kind of denoiser; the numbers in a "transformer" are too large for float16.
    """
    if device.type != "cpu":
        return torch.bfloat16 if denoiser == "transformer" else torch.float16
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else torch.float32


class ShortAttention:
    """Attention as diffusers computes it: in plain products for few tokens, in the fused form for many."""

    plain, fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        """Return the hidden states, shape (rows, tokens, width), after attention."""
        processor = self.plain if hidden_states.shape[1] <= FEW_TOKENS else self.fused
        attended: torch.Tensor = processor(attn, hidden_states, *arguments, **named)
        return attended


def use_short_attention(unet: Any) -> None:
    """Make the layers of a denoiser that use fused attention use it for many tokens only."""
    unet.set_attn_processor(
        {
            name: ShortAttention() if type(processor) is AttnProcessor2_0 else processor
            for name, processor in unet.attn_processors.items()
        }
    )


CONVERTED = ("hidden_states", "encoder_hidden_states", "pooled_projections", "attention_mask", "timestep_cond")
"""Arguments of denoisers in the format of their weights; they convert times and positions themselves, and guidance
unless it is the `timestep_cond` of a latent consistency model."""


def use_own_dtype(module: Any) -> None:
    """Make a part of the model compute in its own number format and channels last, with float32 around it.

    The format is read at each call, because some pipelines temporarily change that of their decoder.
    """

    def enter(part: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        dtype = next(part.parameters()).dtype
        named = {**named, **{name: named[name].to(dtype) for name in CONVERTED if named.get(name) is not None}}
        if (mask := named.get("encoder_attention_mask")) is not None:
            named["encoder_attention_mask"] = ((mask - 1) * FULL_BIAS).unsqueeze(1).to(dtype)
        return (*(each.to(dtype) for each in inputs[:1]), *inputs[1:]), named

    def leave(part: torch.nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        return (output[0].float(), *output[1:]) if isinstance(output, tuple) else output.float()

    if all(weights.ndim != VIDEO for weights in module.parameters()):
        module.to(memory_format=torch.channels_last)
    module.register_forward_pre_hook(enter, with_kwargs=True)
    module.register_forward_hook(leave)


def keep_soft_masks(transformer: Any) -> None:
    """Have a transformer hand the mask of a text on to its blocks as it is, not as the nearest of true and false.

    They add it to the attention, where they put a 1 for each token of the picture.
    """
    soft: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
        soft[:] = [mask for mask in [named.get("encoder_hidden_states_mask")] if mask is not None]

    def use(_: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        for mask in soft:
            bias = 1 + (mask - 1) * FULL_BIAS
            named = {**named, "encoder_hidden_states_mask": bias.to(named["hidden_states"].dtype)}
        return inputs, named

    transformer.register_forward_pre_hook(keep, with_kwargs=True)
    for block in transformer.transformer_blocks:
        block.register_forward_pre_hook(use, with_kwargs=True)
