"""The revision of a model: a hash of everything that decides pixels."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch


def model_revision(components: Mapping[str, Any]) -> str:
    """Return the hexadecimal hash of all weights, settings and vocabularies of a model.

    It reads every byte of the weights: a tenth of a second for the bundled model, seconds for large ones.

    Args:
        components: the parts of a diffusers pipeline, by name.
    """
    digest = hashlib.sha256()
    for name, part in sorted(components.items()):
        digest.update(f"{name} {type(part).__name__}".encode())
        if hasattr(part, "config"):
            digest.update(_settings(part.config))
        if isinstance(part, torch.nn.Module):
            for tensor, weights in part.state_dict().items():
                plain = weights.contiguous().flatten().view(torch.uint8).cpu().numpy()
                digest.update(f"{tensor} {weights.dtype} {tuple(weights.shape)}".encode())
                digest.update(plain)
        elif not hasattr(part, "config") and hasattr(part, "save_pretrained"):
            with TemporaryDirectory() as folder:
                part.save_pretrained(folder)
                for file in sorted(Path(folder).rglob("*")):
                    if file.is_file():
                        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _settings(config: Any) -> bytes:
    """Return the settings of a part of a model, without its origin and library version."""
    found = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    found = {name: value for name, value in found.items() if name[0] != "_" and name != "transformers_version"}
    return json.dumps(found, sort_keys=True, default=str).encode()
