"""Making a pipeline of diffusers from the files of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from momalisa.description import INDEX, read_json
from momalisa.location import Location
from worker.rendering import files, single_file, sources
from worker.rendering.additions import Additions, add_loras, add_textual_inversions
from worker.rendering.autoencoder import load_vae
from worker.rendering.parts import load_part


def configuration(place: Location) -> Path:
    """Return the folder with the configuration of a model; from the Hub only that is downloaded.

    Raises:
        ModelError: if there is none, or it is not available.
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses it.
    """
    if place.is_file:
        return single_file.configuration(sources.fetch_file(place))
    return sources.configuration(place)


def construct(place: Location, dtypes: Mapping[str, torch.dtype], additions: Additions) -> Any:
    """Return a pipeline with all that is added to it, on the CPU.

    Every file is checked before the first is loaded, and every tensor that a part needs must be there.

    Args:
        place: where the model lies.
        dtypes: number format of each part by its name, and under "default" that of all others.
        additions: what is added to the model.

    Raises:
        ModelError: if it cannot be loaded; it names the file.
    """
    if place.is_file:
        file = sources.fetch_weights(place, "MODEL", allow_pickle=additions.allow_pickle)
        folder = single_file.configuration(file)
        replaced = _replaced(folder, dtypes, additions)
        pipeline = single_file.load(file, folder, dtypes, replaced, allow_pickle=additions.allow_pickle)
    else:
        folder = sources.fetch(place, allow_pickle=additions.allow_pickle)
        pipeline = _of_folder(folder, dtypes, additions)
    add_textual_inversions(pipeline, additions.textual_inversions, allow_pickle=additions.allow_pickle)
    add_loras(pipeline, additions.loras, allow_pickle=additions.allow_pickle)
    return pipeline


def _replaced(folder: Path, dtypes: Mapping[str, torch.dtype], additions: Additions) -> dict[str, Any]:
    """Return the parts that are not taken from the model."""
    if additions.vae is None:
        return {}
    dtype = dtypes.get("vae", dtypes["default"])
    return {"vae": load_vae(additions.vae, folder, dtype, allow_pickle=additions.allow_pickle)}


def _of_folder(folder: Path, dtypes: Mapping[str, torch.dtype], additions: Additions) -> Any:
    index = read_json(folder / INDEX)
    replaced = ["vae"] if additions.vae is not None else []
    weights = files.check_folder(folder, index, replaced, allow_pickle=additions.allow_pickle)
    loaded = _replaced(folder, dtypes, additions)
    for part, library, kind in files.parts(index):
        if part in weights:
            dtype = dtypes.get(part, dtypes["default"])
            loaded[part] = load_part(folder, part, library, kind, weights[part], dtype)
    return DiffusionPipeline.from_pretrained(folder, **loaded, local_files_only=True)
