"""A tiny model as people have it on disk: as a folder, as one file, and with a LoRA."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import tiny_parts, tiny_pipelines

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
    vae = tiny_parts.autoencoder(channels)
    torch.manual_seed(seed)
    torch.nn.init.normal_(vae.decoder.conv_in.weight)
    return vae


def copy(model: Path, folder: Path) -> Path:
    """Return a copy of a model, to be changed."""
    shutil.copytree(model, folder)
    return folder


def change(file: Path, **values: object) -> None:
    """Set values in a JSON file of a model."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def single_file(model: Path, file: Path) -> Path:
    """Write the weights of a tiny model as one file, named as Stable Diffusion's authors did; returns the file."""
    found = {f"model.diffusion_model.{name}": tensor for name, tensor in _part(model, "unet", _unet_name).items()}
    prefix = "cond_stage_model.transformer.text_model."
    for name, tensor in _part(model, "text_encoder").items():
        found[prefix + name.removeprefix("text_model.")] = tensor
    save_file(found | _vae(model), file)
    return file


def stable_diffusion_3_file(model: Path, file: Path) -> Path:
    """Write the weights of a tiny Stable Diffusion 3 as one file with all parts, as its authors named them."""
    weights = _part(model, "transformer")
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    for name in ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear"):
        _swap_halves(weights, name)
    _join(weights, "attn.to_q attn.to_k attn.to_v", "x_block.attn.qkv")
    _join(weights, "attn.add_q_proj attn.add_k_proj attn.add_v_proj", "context_block.attn.qkv")
    found = {f"model.diffusion_model.{_renamed(name, _SD3)}": tensor for name, tensor in weights.items()}
    for part, kind in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g"), ("text_encoder_3", "t5xxl")):
        for name, tensor in _part(model, part).items():
            found[f"text_encoders.{kind}.transformer.{name}"] = tensor
    save_file(found | _vae(model), file)
    return file


def flux_file(model: Path, file: Path) -> Path:
    """Write the weights of the transformer of a tiny FLUX.1 as a file, as its authors named them: no other part."""
    weights = _part(model, "transformer")
    _swap_halves(weights, "norm_out.linear")
    _join(weights, "attn.to_q attn.to_k attn.to_v proj_mlp", "linear1", within="single_transformer_blocks.")
    _join(weights, "attn.to_q attn.to_k attn.to_v", "img_attn.qkv")
    _join(weights, "attn.add_q_proj attn.add_k_proj attn.add_v_proj", "txt_attn.qkv")
    save_file({_flux_name(name): tensor for name, tensor in weights.items()}, file)
    return file


def _part(model: Path, part: str, renamed: Callable[[str], str] = str) -> dict[str, torch.Tensor]:
    """Return the weights of a part, under other names."""
    [weights] = (model / part).glob("*.safetensors")
    return {renamed(name): tensor for name, tensor in load_file(weights).items()}


def _vae(model: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the autoencoder, whose attention was made of convolutions."""
    found = {}
    for name, tensor in _part(model, "vae", _vae_name).items():
        is_convolution = ".attn_1." in name and name.endswith("weight") and "norm" not in name
        found[f"first_stage_model.{name}"] = tensor[:, :, None, None].clone() if is_convolution else tensor
    return found


def _swap_halves(weights: dict[str, torch.Tensor], layer: str) -> None:
    """Put the shift of a layer before its scale, as authors have it; diffusers has it the other way round."""
    for kind in ("weight", "bias"):
        scale, shift = weights[f"{layer}.{kind}"].chunk(2)
        weights[f"{layer}.{kind}"] = torch.cat([shift, scale])


def _join(weights: dict[str, torch.Tensor], layers: str, joined: str, within: str = "") -> None:
    """Make one layer of several that lie side by side, in each block."""
    first, *others = layers.split()
    for name in [name for name in weights if name.startswith(within) and f".{first}." in name]:
        tensors = [weights.pop(name.replace(first, each)) for each in (first, *others)]
        weights[name.replace(first, joined)] = torch.cat(tensors)


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
_SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "transformer_blocks": "joint_blocks",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
}
_FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "norm1_context.linear": "txt_mod.lin",
    "norm1.linear": "img_mod.lin",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "transformer_blocks": "double_blocks",
    "proj_out": "final_layer.linear",
}
_FLUX_SINGLE = {
    "single_transformer_blocks": "single_blocks",
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
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


def _flux_name(name: str) -> str:
    return _renamed(name, _FLUX_SINGLE if name.startswith("single_") else _FLUX)


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
