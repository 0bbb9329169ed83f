"""A tiny model as people have it on disk: as a folder, as one file, and with a LoRA."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import tiny_pipelines

WIDTH = 32
"""Of a text embedding."""


def stable_diffusion(folder: Path, **saving: Any) -> Path:
    """Write a pipeline with random weights, and return its folder.

    Args:
        folder: to be made.
        saving: arguments of `save_pretrained`, such as `variant`.
    """
    tiny_pipelines.stable_diffusion().save_pretrained(folder, **saving)
    return folder


def autoencoder(channels: int = 4, seed: int = 7) -> Any:
    """Return an autoencoder with random weights."""
    vae = tiny_pipelines.autoencoder(channels)
    torch.manual_seed(seed)
    torch.nn.init.normal_(vae.decoder.conv_in.weight)
    return vae


def copy(model: Path, folder: Path) -> Path:
    """Return a copy of a model, to be changed."""
    shutil.copytree(model, folder)
    return folder


def single_file(model: Path, file: Path) -> Path:
    """Write the weights of a tiny model as one file, named as Stable Diffusion's authors did; returns the file."""
    found = {}
    for part, prefix, renamed in (
        ("unet", "model.diffusion_model.", _unet_name),
        ("vae", "first_stage_model.", _vae_name),
        ("text_encoder", "cond_stage_model.transformer.text_model.", lambda name: name.removeprefix("text_model.")),
    ):
        [weights] = (model / part).glob("*.safetensors")
        for name, tensor in load_file(weights).items():
            new = renamed(name)
            is_convolution = ".attn_1." in new and new.endswith("weight") and "norm" not in new
            found[prefix + new] = tensor[:, :, None, None].clone() if is_convolution else tensor
    save_file(found, file)
    return file


def _renamed(name: str, pairs: dict[str, str]) -> str:
    for ours, theirs in pairs.items():
        name = name.replace(ours, theirs)
    return name


_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
_VAE = {
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "down_blocks": "down",
    "resnets": "block",
}


def _unet_name(name: str) -> str:
    inside_attention = "transformer_blocks" in name
    return _renamed(name, _UNET if inside_attention else {**_UNET, **_RESNET})


def _vae_name(name: str) -> str:
    for number in range(4):
        name = name.replace(f"up_blocks.{number}", f"up.{3 - number}")
    return _renamed(name, _VAE)


def lora(model: Path, file: Path, strength: float = 1.0) -> Path:
    """Write a LoRA for the attention of a tiny model's denoiser, as diffusers writes it; returns the file."""
    torch.manual_seed(7)
    found = {}
    for name, tensor in load_file(model / "unet/diffusion_pytorch_model.safetensors").items():
        if name.endswith(("to_q.weight", "to_v.weight")):
            module = f"unet.{name.removesuffix('.weight')}"
            found[f"{module}.lora_A.weight"] = torch.randn(2, tensor.shape[1])
            found[f"{module}.lora_B.weight"] = strength * torch.randn(tensor.shape[0], 2)
    save_file(found, file)
    return file
