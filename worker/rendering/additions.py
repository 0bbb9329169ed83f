"""What is added to a model: LoRAs, textual inversions, another decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from momalisa.errors import ModelError
from momalisa.location import Location, locate, weighted
from momalisa.settings import Settings
from worker.rendering import files, sources


@dataclass(frozen=True)
class Additions:
    """What the settings add to a model."""

    loras: tuple[str, ...] = ()
    textual_inversions: tuple[str, ...] = ()
    vae: str | None = None
    allow_pickle: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "Additions":
        """Return what some settings add."""
        return cls(settings.loras, settings.textual_inversions, settings.vae, settings.allow_pickle)


NONE = Additions()


def add_loras(pipeline: Any, loras: Sequence[str], *, allow_pickle: bool) -> None:
    """Merge LoRAs into the weights of a pipeline.

    Raises:
        ModelError: if one cannot be loaded, or is for other models.
    """
    if not loras:
        return
    kind = type(pipeline).__name__
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelError(f"LORAS: {kind} takes no LoRAs.")
    names, weights = [], []
    for number, (place, weight) in enumerate(map(weighted, loras)):
        file = _lora_file(place, allow_pickle=allow_pickle)
        header = files.check_file(file)
        if header and not any("lora" in name or "hada" in name or "lokr" in name for name in header):
            raise ModelError(f"LORAS: {file} is not a LoRA.")
        name = f"lora{number}"
        try:
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
        except Exception as error:  # in one library or another
            raise ModelError(f"LORAS: {file} is not for {kind} or this size of it: {_first(error)}") from error
        if not any(name in adapters for adapters in pipeline.get_list_adapters().values()):
            raise ModelError(f"LORAS: {file} is not for {kind}: none of its tensors fits.")
        names.append(name)
        weights.append(weight)
    pipeline.set_adapters(names, weights)
    pipeline.fuse_lora(
        adapter_names=names,
        components=[name for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None)],
    )
    pipeline.unload_lora_weights()


def _lora_file(place: Location, *, allow_pickle: bool) -> Path:
    if place.path is not None and place.path.is_dir():
        found = [each for each in sorted(place.path.iterdir()) if each.suffix == ".safetensors"]
        named = [each for each in found if "lora" in each.name] or found
        if len(named) != 1:
            number = "several files; name one of them" if named else "no .safetensors file"
            raise ModelError(f"LORAS: {place.path} has {number}.")
        return named[0]
    if place.path is None and place.file is None:
        names = sources.listed(place)
        if names is None:
            folder = sources.cached(place)
            names = [str(file.relative_to(folder)) for file in folder.rglob("*")]
        found_there = [name for name in names if name.endswith(".safetensors")]
        if len(found_there) != 1:
            number = "several .safetensors files" if found_there else "no .safetensors file"
            raise ModelError(f"LORAS: {place.text} on the Hub has {number}; name one as {place.hub}/FILE.")
        return sources.snapshot(place, found_there) / found_there[0]
    return sources.fetch_weights(place, "LORAS", allow_pickle=allow_pickle)


def add_textual_inversions(pipeline: Any, inversions: Sequence[str], *, allow_pickle: bool) -> None:
    """Teach the text encoders of a pipeline new words, each by the name of its file.

    Raises:
        ModelError: if one cannot be loaded, or is for other models.
    """
    kind = type(pipeline).__name__
    if inversions and not hasattr(pipeline, "load_textual_inversion"):
        raise ModelError(f"TEXTUAL_INVERSIONS: {kind} takes none.")
    for text in inversions:
        place = locate(text)
        if not place.is_file:
            raise ModelError(f"TEXTUAL_INVERSIONS: {text} is not a file.")
        file = sources.fetch_weights(place, "TEXTUAL_INVERSIONS", allow_pickle=allow_pickle)
        header = files.check_file(file)
        try:
            if "clip_l" in header and "clip_g" in header:
                tensors = load_file(file)
                for key, number in (("clip_l", ""), ("clip_g", "_2")):
                    pipeline.load_textual_inversion(
                        {file.stem: tensors[key]},
                        token=file.stem,
                        text_encoder=getattr(pipeline, f"text_encoder{number}"),
                        tokenizer=getattr(pipeline, f"tokenizer{number}"),
                    )
            else:
                pipeline.load_textual_inversion(str(file), token=file.stem)
        except Exception as error:
            raise ModelError(f"TEXTUAL_INVERSIONS: {file} is not for {kind}: {_first(error)}") from error


def _first(error: Exception) -> str:
    """Return the first line of what a library says, as a sentence."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith(".") else f"{line}."
