"""Loading another autoencoder for a model, and refusing one that is for models of another family."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from momalisa.description import read_json
from momalisa.errors import ModelError
from momalisa.location import Location, locate
from worker.rendering import files, sources
from worker.rendering.parts import LOW_MEMORY, class_of, refuse_other_weights, refuse_unfilled
from worker.rendering.single_file import check_part

FIRST = "decoder.conv_in.weight"
"""A tensor that has as many columns as latents have channels."""


def load_vae(text: str, model: Path, dtype: torch.dtype, *, allow_pickle: bool) -> torch.nn.Module:
    """Return the autoencoder that VAE names.

    Args:
        text: a folder with its configuration, of itself or of a whole model, or one file.
        model: folder with the configuration of the model that it is for.
        dtype: its number format.
        allow_pickle: whether its weights may be pickles.

    Raises:
        ModelError: if it cannot be loaded, or is for other models.
    """
    place = locate(text)
    own = model / "vae" / "config.json"
    needed = read_json(own).get("latent_channels", 4)
    if place.is_file:
        file = sources.fetch_weights(place, "VAE", allow_pickle=allow_pickle)
        _refuse_other_channels(file, files.check_file(file), needed)
        return _of_file(file, own, dtype).eval()
    folder = _folder(place)
    chosen = files.weights((each.name for each in folder.iterdir()), str(folder), allow_pickle=allow_pickle)
    if chosen is None or not (folder / "config.json").is_file():
        raise ModelError(f"VAE: {folder} has no config.json with weights beside it, so it is no autoencoder.")
    for name in chosen.files:
        _refuse_other_channels(folder / name, files.check_file(folder / name), needed)
    kind = str(read_json(folder / "config.json").get("_class_name", "AutoencoderKL"))
    known: Any = class_of("diffusers", kind)
    if known is None or not kind.startswith("Autoencoder"):
        raise ModelError(f"VAE: {folder} holds a {kind} and no autoencoder.")
    vae, info = known.from_pretrained(
        folder,
        variant=chosen.variant,
        use_safetensors=not chosen.pickle,
        torch_dtype=dtype,
        low_cpu_mem_usage=LOW_MEMORY,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    refuse_other_weights(folder / chosen.files[0], kind, len(vae.state_dict()), info)
    module: torch.nn.Module = vae.eval()
    return module


def _refuse_other_channels(file: Path, header: dict[str, Any], needed: int) -> None:
    made = [header[name]["shape"][1] for name in header if name.endswith(FIRST)]
    if made and made[0] != needed:
        raise ModelError(
            f"VAE: {file} is for models of another family: it decodes {made[0]} channels, and the model makes "
            f"{needed}."
        )


def _folder(place: Location) -> Path:
    if place.path is None:
        names = sources.listed(place)
        if names is None:
            return sources.cached(place)
        inside = "vae/" if "vae/config.json" in names else ""
        bare = [name.removeprefix(inside) for name in names if name.startswith(inside)]
        chosen = files.weights(bare, place.text, allow_pickle=True)
        wanted = [f"{inside}{name}" for name in ("config.json", *(chosen.files if chosen else ()))]
        return sources.snapshot(place, wanted) / inside
    if not place.path.is_dir():
        raise ModelError(f"VAE: there is no folder or file {place.text}.")
    return place.path / "vae" if (place.path / "vae").is_dir() else place.path


def _of_file(file: Path, config: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Return an autoencoder whose file names tensors as diffusers does, or as Stable Diffusion's authors did."""
    header = files.check_file(file)
    if file.suffix == ".safetensors" and not any(name.endswith(FIRST) for name in header):
        raise ModelError(f"VAE: {file} is no autoencoder: it has no decoder.")
    vae: Any
    if any(name.startswith("decoder.up_blocks.") for name in header):
        vae = AutoencoderKL.from_config(read_json(config))
        found, own = load_file(file), vae.state_dict()
        shared = own.keys() & found.keys()
        info = {
            "mismatched_keys": [
                (name, found[name].shape, own[name].shape)
                for name in shared
                if found[name].shape != own[name].shape
            ],
            "missing_keys": own.keys() - found.keys(),
            "unexpected_keys": found.keys() - own.keys(),
        }
        refuse_other_weights(file, "AutoencoderKL", len(own), info)
        vae.load_state_dict(found)
    else:
        if header:
            check_part(file, header, config.parent, "AutoencoderKL")
        folder = str(config.parent.parent)
        vae = AutoencoderKL.from_single_file(str(file), config=folder, subfolder="vae")
        refuse_unfilled(file, vae)
    module: torch.nn.Module = vae.to(dtype)
    return module
