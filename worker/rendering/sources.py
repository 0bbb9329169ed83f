"""Where the files of a model come from: a folder, a file, or the Hub, from which they are downloaded once."""

from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from momalisa import description
from momalisa.description import INDEX, OWN
from momalisa.errors import ModelError
from momalisa.location import WEIGHTS, Location
from worker.rendering import files

SMALL = (".json", ".txt", ".model", ".jinja", ".md")
"""Suffixes of files without weights, all of which a model may need."""


def configuration(place: Location) -> Path:
    """Return the folder with the configuration of a model; from the Hub only that is downloaded.

    Raises:
        ModelError: if there is none, or it is not available.
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses it.
    """
    return _folder(place) if place.path is not None else _download(place, weights=False, allow_pickle=True)


def fetch(place: Location, *, allow_pickle: bool) -> Path:
    """Return the folder of a model with all that it needs; from the Hub it is downloaded.

    Raises:
        ModelError: if it is not there, or is not available.
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses it.
    """
    return _folder(place) if place.path is not None else _download(place, weights=True, allow_pickle=allow_pickle)


def fetch_file(place: Location, setting: str = "MODEL") -> Path:
    """Return a file with weights; from the Hub it is downloaded.

    Raises:
        ModelError: if it is not there, or is not available.
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses it.
    """
    if place.path is None:
        assert place.file
        folder = snapshot(place, [place.file])
        if not (folder / place.file).is_file():
            raise ModelError(f"{setting}: {place.hub} on the Hub has no file {place.file}.")
        return folder / place.file
    if not place.path.is_file():
        raise ModelError(f"{setting}: there is no file {place.path}.")
    return place.path


def fetch_weights(place: Location, setting: str, *, allow_pickle: bool) -> Path:
    """Return a file with weights, if it is no pickle or those are allowed.

    Raises:
        ModelError: if it is not there, is not available or is not allowed; it names the setting.
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses it.
    """
    file = fetch_file(place, setting)
    if file.suffix != ".safetensors" and not allow_pickle:
        raise ModelError(
            f"{setting}: {file} is a pickle, which can run any code: use a .safetensors file, or set ALLOW_PICKLE "
            "if you trust its author."
        )
    return file


def _folder(place: Location) -> Path:
    """Return a folder of this machine that holds a pipeline."""
    assert place.path is not None
    folder = place.path
    if not folder.is_dir():
        kinds = "a folder, a .safetensors file, or a name on the Hub (owner/name)"
        raise ModelError(f"There is no folder {place.text}: a model is {kinds}.")
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} has no {INDEX}, so it is not a pipeline of diffusers{_instead(folder)}.")
    return folder


def _instead(folder: Path) -> str:
    """Return what a folder holds instead of a pipeline, as the end of a sentence."""
    names = sorted(file.name for file in folder.iterdir())
    single = [name for name in names if Path(name).suffix in WEIGHTS]
    if "config.json" in names:
        kind = description.read_json(folder / "config.json").get("_class_name", "part of a model")
        return f": it holds a {kind}; name the folder above it"
    if "adapter_config.json" in names or any("lora" in name.lower() for name in single):
        return ": it holds a LoRA; name it in LORAS, and the model that it is for in MODEL"
    if single:
        return f"; if {single[0]} is a whole model, name that file"
    nested = [name for name in names if (folder / name / INDEX).is_file()]
    return f"; {folder / nested[0]} is one" if nested else ""


def _download(place: Location, *, weights: bool, allow_pickle: bool) -> Path:
    names = listed(place)
    if names is None:
        return cached(place)
    if INDEX not in names:
        single = [name for name in names if "/" not in name and Path(name).suffix in WEIGHTS]
        instead = f"; {place.hub}/{single[0]} names a file of it" if single else ""
        raise ModelError(f"{place.text} on the Hub has no {INDEX}, so it is not a pipeline of diffusers{instead}.")
    index = description.read_json(snapshot(place, [INDEX]) / INDEX)
    wanted = [name for name in (INDEX, OWN, "README.md") if name in names]
    for part, _, _ in files.parts(index):
        inside = [name for name in names if name.startswith(f"{part}/") and name.count("/") == 1]
        wanted += [name for name in inside if Path(name).suffix in SMALL]
        if weights:
            bare = [name.rpartition("/")[2] for name in inside]
            chosen = files.weights(bare, f"{place.text}/{part}", allow_pickle=allow_pickle)
            wanted += [f"{part}/{name}" for name in (chosen.files if chosen else ())]
    return snapshot(place, wanted)


def listed(place: Location) -> list[str] | None:
    """Return the names of all files of a model on the Hub; None if the Hub is not to be asked, or away.

    A model that was downloaded before is also used while the Hub is overloaded.
    """
    try:
        info = HfApi().model_info(str(place.hub), revision=place.revision)
    except OfflineModeIsEnabled:
        return None
    except HfHubHTTPError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED and "Invalid credentials" in str(error):
            raise ModelError("The Hub does not accept HF_TOKEN: it is wrong, or no longer valid.") from None
        status = error.response.status_code
        overloaded = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if overloaded and _downloaded(place):
            return None
        raise
    except Exception as error:
        # The library's HTTP client differs by its version: httpx, or a fork of it.
        if not any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
            raise
        return None
    return [file.rfilename for file in info.siblings or ()]


def snapshot(place: Location, names: Iterable[str]) -> Path:
    """Return the folder of a model in the cache, after files of it were downloaded."""
    return Path(snapshot_download(str(place.hub), revision=place.revision, allow_patterns=list(names)))


def cached(place: Location) -> Path:
    """Return the folder of a model that was downloaded before.

    Raises:
        ModelError: if it was not.
    """
    if folder := _downloaded(place):
        return folder
    raise ModelError(_why_absent(place))


def _downloaded(place: Location) -> Path | None:
    try:
        return Path(snapshot_download(str(place.hub), revision=place.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _why_absent(place: Location) -> str:
    from huggingface_hub import constants  # noqa: PLC0415 - its value is read when it is needed

    if constants.HF_HUB_OFFLINE:
        return f"{place.text} is not on this machine, and HF_HUB_OFFLINE forbids downloading it."
    return (
        f"{place.text} is not on this machine, and the Hub cannot be reached: check the network and its proxies, "
        "or copy the model into a folder and name that."
    )
