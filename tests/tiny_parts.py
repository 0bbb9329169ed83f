"""The parts of tiny pipelines, with random weights: tokenizers, text encoders, autoencoders, denoisers.

Some weights are larger than at random, so that a difference of prompts or of noise shows in the pixels.
"""

import string
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from momalisa.settings import BUNDLED_MODEL

diffusers: Any = import_module("diffusers")  # which is typed in part
transformers: Any = import_module("transformers")

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def clip_tokenizer() -> Any:
    return transformers.CLIPTokenizer.from_pretrained(Path(BUNDLED_MODEL) / "tokenizer")


def t5_tokenizer() -> Any:
    letters = [(letter, -3.0) for letter in string.printable if letter.strip()]
    tokenizer = transformers.T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters], extra_ids=0
    )
    tokenizer.model_max_length = 512
    return tokenizer


def gemma_tokenizer() -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=[])
    tokenizer.model_max_length, tokenizer.padding_side = 8192, "right"
    return tokenizer


def qwen_tokenizer() -> Any:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + number) for number in range(256 - len(printable))]  # as in GPT-2's vocabulary of bytes
    vocabulary = {letter: number for number, letter in enumerate([*map(chr, printable), *others])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template, tokenizer.model_max_length = CHAT, 32768
    return tokenizer


def clip(kind: Any = transformers.CLIPTextModel, activation: str = "quick_gelu") -> Any:
    torch.manual_seed(1)
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=3,
        vocab_size=len(tokenizer),
        hidden_act=activation,
        projection_dim=32,
        initializer_factor=1.0,
    )
    return kind(config).eval()


def t5(width: int = 32) -> Any:
    torch.manual_seed(5)
    config = transformers.T5Config(
        vocab_size=128,
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return transformers.T5EncoderModel(config).eval()


def gemma() -> Any:
    torch.manual_seed(11)
    config = transformers.Gemma2Config(
        head_dim=8,
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=256,
        sliding_window=64,
    )
    return transformers.Gemma2Model(config).eval()


def qwen3(kind: Any, layers: int) -> Any:
    torch.manual_seed(8)
    config = transformers.Qwen3Config(
        intermediate_size=16,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=2048,
        head_dim=8,
        initializer_range=0.5,
    )
    return kind(config).eval()


VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 512,
}


def autoencoder(latent_channels: int = 4, kind: Any = diffusers.AutoencoderKL, **changes: Any) -> Any:
    torch.manual_seed(2)
    vae = kind(**VAE, latent_channels=latent_channels, **changes).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(8)
    return vae


def flow_vae() -> Any:
    return autoencoder(
        16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False
    )


def unet(size: int, width: int = 32, **changes: Any) -> Any:
    torch.manual_seed(3)
    made = diffusers.UNet2DConditionModel(
        sample_size=size,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        **changes,
    ).eval()
    with torch.no_grad():
        made.conv_out.weight.mul_(2)
        heed_text(made)
    return made


def heed_text(denoiser: Any) -> None:
    """Enlarge the weights by which a denoiser attends to the text."""
    for name, weights in denoiser.named_parameters():
        if "attn2.to_out" in name or "attn2.to_v" in name:
            weights.mul_(30)
