"""Models that are passed on as one file: finding their configuration, checking and loading them."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    infer_diffusers_model_type,
    is_clip_model_in_single_file,
    is_t5_in_single_file,
)

from momalisa import description
from momalisa.description import INDEX, KNOWN, read_json
from momalisa.errors import ModelError
from momalisa.location import locate
from worker.rendering import files, sources
from worker.rendering.parts import class_of, load_part, refuse_other_weights, refuse_unfilled


class NoPartError(ModelError):
    """A file has no tensor of a part."""


def load(
    file: Path,
    folder: Path,
    dtypes: Mapping[str, torch.dtype],
    replaced: Mapping[str, torch.nn.Module],
    *,
    allow_pickle: bool,
) -> Any:
    """Return the pipeline of a model that is one file; parts that it has not are taken from the folder.

    Args:
        file: with the weights.
        folder: with the configuration.
        dtypes: number format of each part by its name, and under "default" that of all others.
        replaced: parts that are taken from elsewhere.
        allow_pickle: whether weights in the folder may be pickles.

    Raises:
        ModelError: if the file lacks tensors of a part, or has them in another shape; or nothing has the part.
    """
    index = read_json(folder / INDEX)
    header = files.check_file(file)
    replaced = dict(replaced)
    for part, library, kind in files.parts(index):
        if not header or part in replaced or class_of(library, kind) is None or part == "safety_checker":
            continue
        try:
            check_part(file, header, folder / part, kind)
        except NoPartError:
            weights = files.weights(
                (each.name for each in (folder / part).iterdir()), str(folder / part), allow_pickle=allow_pickle
            )
            if weights is None:
                raise
            for name in weights.files:
                files.check_file(folder / part / name)
            dtype = dtypes.get(part, dtypes["default"])
            replaced[part] = load_part(folder, part, library, kind, weights, dtype)
    without = {part: None for part in ("safety_checker", "feature_extractor") if part in index}
    pipeline = getattr(diffusers, str(index["_class_name"])).from_single_file(
        str(file), config=str(folder), local_files_only=True, **without, **replaced
    )
    for part, module in pipeline.components.items():
        if isinstance(module, transformers.PreTrainedModel):
            module.tie_weights()  # of T5, whose embeddings a file has once, under one of their two names
        if isinstance(module, torch.nn.Module):
            refuse_unfilled(file, module)
            module.to(dtypes.get(part, dtypes["default"])).eval()  # else T5 would drop out at random
    return pipeline


def check_part(file: Path, header: Mapping[str, Any], config: Path, kind: str) -> None:
    """Raise ModelError unless a file has each tensor of a part; nothing is read but its header.

    Of text encoders it is only checked that they are there: `refuse_unfilled` finds what they lack.

    Raises:
        NoPartError: if it has none of them.
    """
    if kind not in SINGLE_FILE_LOADABLE_CLASSES:
        sought: Any = SimpleNamespace(__name__=kind)
        if not (is_clip_model_in_single_file(sought, header) or ("T5" in kind and is_t5_in_single_file(header))):
            raise NoPartError(f"{file} has no {kind}: put its weights into {_beside(file, config)}.")
        return
    known: Any = class_of("diffusers", kind)
    settings = read_json(config / "config.json")
    with torch.device("meta"):
        own = known.from_config(settings).state_dict()
    stand_ins = {
        name: torch.empty(each["shape"], device="meta") for name, each in header.items() if name != "__metadata__"
    }
    try:
        renamed: Any = SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]  # type: ignore[index]
        found = renamed(config=settings, checkpoint=stand_ins)
    except KeyError as error:
        raise ModelError(f"{file} lacks tensors of {kind}, such as {error.args[0]}.") from None
    if not found.keys() & own.keys():
        hint = f": name one in VAE, or put its weights into {_beside(file, config)}" if config.name == "vae" else ""
        raise NoPartError(f"{file} has no {kind}{hint}.")
    info = {
        "mismatched_keys": [
            (name, found[name].shape, own[name].shape)
            for name in own.keys() & found.keys()
            if found[name].shape != own[name].shape
        ],
        "missing_keys": own.keys() - found.keys(),
        "unexpected_keys": (),
    }
    refuse_other_weights(file, kind, len(own), info)


def _beside(file: Path, config: Path) -> Path:
    """Return the folder beside a file where the weights of a part may lie."""
    return config if config.is_relative_to(file.parent) else file.with_suffix("") / config.name


def configuration(file: Path) -> Path:
    """Return the folder with the configuration of a model that is one file.

    It lies beside the file, or comes with MoMALisa, or from the model on the Hub that has the same architecture.
    """
    if beside := description.configuration(file):
        return beside
    header = files.check_file(file)
    kind = architecture(file, header)
    if (KNOWN / kind / INDEX).is_file():
        return KNOWN / kind
    hub = DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(kind, {}).get("pretrained_model_name_or_path")
    try:
        return sources.configuration(locate(str(hub)))
    except Exception as error:
        raise ModelError(
            f"{file} is of the architecture {kind}, whose configuration is not available from {hub} on the Hub: "
            f"put a folder {file.stem} with its {INDEX}, configurations and tokenizers beside it."
        ) from error


def architecture(file: Path, header: dict[str, Any]) -> str:
    """Return the architecture of a model that is one file, as diffusers calls it.

    Raises:
        ModelError: if it is a part of a model, or something else.
    """
    if file.suffix != ".safetensors":
        raise ModelError(
            f"{file} is a pickle, whose architecture cannot be read without running it: use its .safetensors file, "
            f"or set ALLOW_PICKLE and put a folder {file.stem} with its {INDEX}, configurations and tokenizers "
            "beside it."
        )
    names = [name for name in header if name != "__metadata__"]
    for sign, what in _OTHERS.items():
        if any(sign in name for name in names):
            raise ModelError(f"{file} {what}.")
    shapes = {name: SimpleNamespace(shape=tuple(header[name]["shape"])) for name in names}
    found = str(infer_diffusers_model_type(shapes))
    if found == "v1" and "model.diffusion_model.input_blocks.0.0.weight" not in names:  # its last resort
        raise ModelError(f"{file} holds no model that is known: it may be a part of one, or of an unknown family.")
    if found not in _WHOLE:
        raise ModelError(f"{file} is of the kind {found}, which cannot render walks.")
    return found


_WHOLE = {
    *("v1", "v2", "xl_base", "playground-v2-5", "sd3", "sd35_large", "sd35_medium", "flux-dev", "flux-schnell"),
    *("chroma", "lumina2", "sana", "z-image-turbo"),
}
"""Architectures that render pictures from text alone, as diffusers calls them."""


_OTHERS = {
    "lora_up": "is a LoRA: name it in LORAS, and the model that it is for in MODEL",
    "lora_A": "is a LoRA: name it in LORAS, and the model that it is for in MODEL",
    "lora_B": "is a LoRA: name it in LORAS, and the model that it is for in MODEL",
    "hada_w1_a": "is a LoRA: name it in LORAS, and the model that it is for in MODEL",
    "emb_params": "is a textual inversion: name it in TEXTUAL_INVERSIONS",
    "clip_l": "is a textual inversion: name it in TEXTUAL_INVERSIONS",
    "control_model.": "is a ControlNet, which walks cannot use",
}
"""What a file is that is no model, by a part of a tensor's name."""
