"""Where a model lies, or a part of one: a folder or a file of this machine, or a name on the Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Suffixes of files with weights; all but the first are pickles, which can run code."""

_HUB = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>refs/pr/\d+|[\w.-]+))?(/(?P<file>[\w./ -]+))?", re.ASCII
)


@dataclass(frozen=True)
class Location:
    """Where a model lies: on this machine if it has a path, else on the Hub."""

    text: str
    """As the settings have it."""
    path: Path | None = None
    hub: str | None = None
    """Owner and name on the Hub."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; None means its main branch."""
    file: str | None = None
    """A single file of it on the Hub."""

    @property
    def name(self) -> str:
        """A name that is the same on machines where it is not, or lies in another folder."""
        if self.path is not None:
            return self.path.stem if self.path.suffix in WEIGHTS else self.path.name
        return self.text

    @property
    def is_file(self) -> bool:
        """Whether it is one file with weights, not a folder."""
        return (self.path is not None and self.path.suffix in WEIGHTS) or self.file is not None


def locate(text: str) -> Location:
    """Return where a model lies that the settings name.

    What exists on this machine is meant, and what can only be a path. `owner/name` is on the Hub, as are
    `owner/name@revision` and a file of it, `owner/name/file.safetensors`.
    """
    path = Path(text).expanduser()
    if path.is_absolute() or text.startswith((".", "~")) or path.exists():
        return Location(text, path=path)
    found = _HUB.fullmatch(text)
    file = found and found["file"]
    if found is None or (file is not None and Path(file).suffix not in WEIGHTS):
        return Location(text, path=path)
    if file is None and Path(found["name"]).suffix in WEIGHTS:  # folder/file.safetensors, which does not exist
        return Location(text, path=path)
    return Location(text, hub=found["name"], revision=found["revision"], file=file)


def weighted(text: str) -> tuple[Location, float]:
    """Return where a LoRA lies, and the weight after its colon; 1 if it has none."""
    place, colon, number = text.rpartition(":")
    try:
        return (locate(place), float(number)) if colon and place else (locate(text), 1.0)
    except ValueError:
        return locate(text), 1.0
