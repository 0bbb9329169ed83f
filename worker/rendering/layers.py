"""How the layers of a model compute: number format, memory layout and attention."""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

FEW_TOKENS = 256
"""Up to this many per picture, attention on a CPU is faster as plain products than in PyTorch's fused form."""


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the number format in which a device computes fastest, with enough precision."""
    if device.type != "cpu":
        return torch.float16
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


def use_own_dtype(module: Any) -> None:
    """Make a part of the model compute in its own number format and channels last, with float32 around it.

    The format is read at each call, because some pipelines temporarily change that of their decoder.
    """

    def enter(part: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        dtype = next(part.parameters()).dtype
        if "encoder_hidden_states" in named:
            named = {**named, "encoder_hidden_states": named["encoder_hidden_states"].to(dtype)}
        return (inputs[0].to(dtype), *inputs[1:]), named

    def leave(part: torch.nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        return (output[0].float(), *output[1:]) if isinstance(output, tuple) else output.float()

    module.to(memory_format=torch.channels_last)
    module.register_forward_pre_hook(enter, with_kwargs=True)
    module.register_forward_hook(leave)
