"""Loading the parts of a model that have weights, and refusing weights that are not those of the part."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from momalisa.errors import ModelError
from worker.rendering.files import Weights

SHOWN = 2
"""So many tensors are named in an error."""

LOW_MEMORY = importlib.util.find_spec("accelerate") is not None
"""Whether weights can be read into a model that was made without any, which halves the memory it takes."""


def load_part(
    folder: Path, part: str, library: str, kind: str, weights: Weights, dtype: torch.dtype
) -> torch.nn.Module:
    """Return a part of a model with its weights.

    Args:
        folder: of the model.
        part: its folder in it.
        library: that has its class, as the model's index names it.
        kind: its class.
        weights: its files.
        dtype: its number format.

    Raises:
        ModelError: if the weights are not those of the part.
    """
    known = class_of(library, kind)
    if known is None:
        raise ModelError(f"The class {kind} of {folder / part} is not one of {library} {_version(library)}.")
    arguments: dict[str, Any] = {
        "subfolder": part,
        "variant": weights.variant,
        "use_safetensors": not weights.pickle,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # so that they are reported like the others
    }
    if issubclass(known, transformers.PreTrainedModel):
        loaded, info = known.from_pretrained(folder, dtype=dtype, **arguments)  # type: ignore[misc]
        strict = False  # it often lies beside a part that is not used, such as the head of a language model
    else:
        loaded, info = known.from_pretrained(  # type: ignore[attr-defined]
            folder, torch_dtype=dtype, low_cpu_mem_usage=LOW_MEMORY, **arguments
        )
        strict = True
    file = folder / part / weights.files[0] if len(weights.files) == 1 else folder / part
    refuse_other_weights(file, kind, len(loaded.state_dict()), info, strict=strict)
    module: torch.nn.Module = loaded.eval()
    return module


def class_of(library: str, name: str) -> type[torch.nn.Module] | None:
    """Return the class of a part, as the index of a model names it; None if there is none of this name."""
    homes = {"diffusers": diffusers, "transformers": transformers}
    home = homes.get(library) or getattr(diffusers.pipelines, library, None)
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, torch.nn.Module) else None


def refuse_other_weights(
    file: Path, kind: str, count: int, info: Mapping[str, Any], *, strict: bool = True
) -> None:
    """Raise ModelError unless a file had the weights of a part.

    Args:
        file: for the error.
        kind: class of the part.
        count: of the tensors that it has.
        info: what loading reported.
        strict: whether the file may have no others.
    """
    if shapes := sorted(info["mismatched_keys"]):
        name, found, expected = shapes[0]
        raise ModelError(
            f"{file} does not fit its configuration: {name} has the shape {_shape(found)}, and {kind} needs "
            f"{_shape(expected)}{_more(len(shapes) - 1)}."
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{file} lacks {len(missing)} of {count} tensors of {kind}, such as {_some(missing)}.")
    if strict and (foreign := sorted(info["unexpected_keys"])):
        raise ModelError(f"{file} has {len(foreign)} tensors that {kind} does not have, such as {_some(foreign)}.")


def refuse_unfilled(file: Path, module: torch.nn.Module) -> None:
    """Raise ModelError if a part that was made without weights has not got all of them from a file."""
    own = dict(module.named_parameters())
    missing = [name for name, tensor in own.items() if tensor.is_meta]
    info = {"mismatched_keys": (), "missing_keys": missing, "unexpected_keys": ()}
    refuse_other_weights(file, type(module).__name__, len(own), info)


def _some(names: Iterable[str]) -> str:
    return " and ".join(list(names)[:SHOWN])


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape)) or "of a single number"


def _more(number: int) -> str:
    return f"; so have {number} more tensors another shape" if number else ""


def _version(library: str) -> str:
    return str(getattr({"transformers": transformers}.get(library, diffusers), "__version__", ""))
