"""The files of a model, checked before anything is loaded: which there are, and whether they are whole."""

import json
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from momalisa.description import INDEX, read_json
from momalisa.errors import ModelError

_FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(\.(?P<variant>(?!bin|safetensors)\w+))?"
    r"(?P<shard>-\d{5}-of-\d{5})?\.(?P<format>safetensors|bin)"
)
_SHARDS = "{stem}.safetensors.index{variant}.json"

PREFERRED = (None, "fp16", "bf16")
"""Variants of weights, in order of preference: files without one are those that the author meant."""

_MAGIC = {
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder",
    b"<!DOCTYPE": "is a web page: download the file itself, with a token if its site asks for one",
    b"<html": "is a web page: download the file itself, with a token if its site asks for one",
    b"GGUF": "is a GGUF file, which is not supported: use the safetensors of the model",
    b"PK\x03\x04": "is a pickle, whatever its name says: use the safetensors of the model",
    b"\x80\x02": "is a pickle, whatever its name says: use the safetensors of the model",
}
"""What files begin with that are something else than they should be."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth")

MAX_HEADER = 100_000_000
"""Bytes of the header of a safetensors file, as the format limits it."""


class Weights(NamedTuple):
    """The files with the weights of one part of a model."""

    variant: str | None
    pickle: bool
    files: tuple[str, ...]


def parts(index: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the parts that the index of a pipeline names, each with its library and its class."""
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value):  # noqa: PLR2004
            yield name, value[0], value[1]


def weights(names: Iterable[str], part: str, *, allow_pickle: bool) -> Weights | None:
    """Choose among the files of a part those with its weights; None if there are none, as for a tokenizer.

    Args:
        names: of the files in its folder.
        part: its folder, for errors.
        allow_pickle: whether pickles may be chosen where there are no safetensors.

    Raises:
        ModelError: if there are only pickles, and they are not allowed.
    """
    found: dict[tuple[bool, str | None], list[str]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            found.setdefault((match["format"] == "bin", match["variant"]), []).append(name)
    if not found:
        return None
    pickle, variant = min(found, key=lambda key: (key[0], _rank(key[1]), key[1] or ""))
    if pickle and not allow_pickle:
        raise ModelError(
            f"{part} has its weights only as pickles ({found[pickle, variant][0]}), which can run any code: use a "
            "model with safetensors, or set ALLOW_PICKLE if you trust its author."
        )
    return Weights(variant, pickle, tuple(sorted(found[pickle, variant])))


def _rank(variant: str | None) -> int:
    return PREFERRED.index(variant) if variant in PREFERRED else len(PREFERRED)


def check_folder(
    folder: Path, index: Mapping[str, Any], replaced: Collection[str] = (), *, allow_pickle: bool
) -> dict[str, Weights]:
    """Check all files of a model that lies in a folder, and return the weights of each part that has some.

    Args:
        folder: with the model's index.
        index: what it says.
        replaced: parts that are taken from elsewhere.
        allow_pickle: whether weights may be pickles.

    Raises:
        ModelError: if a file is missing or broken; it names the file.
    """
    found = {}
    for part, _, kind in parts(index):
        if part not in replaced and (chosen := _check_part(folder, part, kind, allow_pickle=allow_pickle)):
            found[part] = chosen
    return found


def _check_part(folder: Path, part: str, kind: str, *, allow_pickle: bool) -> Weights | None:
    place = folder / part
    if not place.is_dir():
        hint = "; set it to [null, null] there to render without it" if part == "safety_checker" else ""
        raise ModelError(f"{folder} has no folder {part}, which its {INDEX} names{hint}.")
    for file in sorted(place.glob("*.json")):
        _start(file)
        if not file.name.endswith((".index.json", "vocab.json")):
            _check_json(file)
    if "Tokenizer" in kind:
        _check_tokenizer(place)
    chosen = weights((file.name for file in place.iterdir()), str(place), allow_pickle=allow_pickle)
    if chosen is None:
        if (place / "config.json").is_file():
            raise ModelError(f"{place} has no weights: it needs a .safetensors file beside its config.json.")
        return None
    if not (place / "config.json").is_file():
        raise ModelError(f"{place} has weights, but no config.json.")
    _check_shards(place, chosen)
    for name in chosen.files:
        check_file(place / name)
    return chosen


def check_file(file: Path) -> dict[str, Any]:
    """Check that a file with weights is whole, and return what the header of a safetensors file says.

    Raises:
        ModelError: if it is not.
    """
    start = _start(file)
    if file.suffix != ".safetensors":
        return {}
    (length,) = struct.unpack("<Q", start[:8].ljust(8, b"\xff"))
    if length > MAX_HEADER:
        raise ModelError(f"{file} is not a safetensors file, or its beginning is damaged.")
    size = file.stat().st_size
    with file.open("rb") as opened:
        opened.seek(8)
        header = opened.read(length)
    if len(header) < length:
        raise ModelError(f"{file} is cut off within its header, after {size:,} bytes: download or copy it again.")
    try:
        tensors: dict[str, Any] = json.loads(header)
        ends = [each["data_offsets"][1] for name, each in tensors.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(f"{file} is not a safetensors file, or its beginning is damaged.") from error
    if size != whole:
        what = "incomplete" if size < whole else "damaged"
        raise ModelError(f"{file} is {what}: it has {size:,} bytes, not {whole:,}. Download or copy it again.")
    return tensors


def _start(file: Path) -> bytes:
    """Return the first bytes of a file, or raise ModelError if it is empty or something else than it should be."""
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}.") from error
    if not start:
        raise ModelError(f"{file} is empty.")
    for magic, what in _MAGIC.items():
        if start.lstrip().startswith(magic) and not (file.suffix in PICKLES and "pickle" in what):
            raise ModelError(f"{file} {what}.")
    return start


def _check_json(file: Path) -> None:
    try:
        json.loads(file.read_bytes())
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}.") from None


def _check_tokenizer(place: Path) -> None:
    names = {file.name for file in place.iterdir()}
    whole = names & {"tokenizer.json", "spiece.model", "tokenizer.model"} or {"vocab.json", "merges.txt"} <= names
    if not whole:
        needed = "tokenizer.json, or vocab.json and merges.txt, or spiece.model"
        raise ModelError(f"{place} has no vocabulary: it needs {needed}.")


def _check_shards(place: Path, chosen: Weights) -> None:
    """Raise ModelError unless each file that the index of sharded weights names is there."""
    sharded = [match for match in map(_FILE.fullmatch, chosen.files) if match and match["shard"]]
    if not sharded or chosen.pickle:
        return
    index = _SHARDS.format(stem=sharded[0]["stem"], variant=f".{chosen.variant}" if chosen.variant else "")
    if not (place / index).is_file():
        raise ModelError(f"{place} has its weights in several files, but no {index} that lists them.")
    listed = set(read_json(place / index).get("weight_map", {}).values())
    if missing := sorted(listed - set(chosen.files)):
        raise ModelError(f"{place} lacks {', '.join(missing[:3])}, which {index} names.")
