"""Interpolating text embeddings and noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from momalisa.domain.spec import Interpolation

PARALLEL = 0.9995
"""Cosine of an angle so small that the arc is treated as a line."""


@dataclass(frozen=True)
class Embedding:
    """The text embeddings of one prompt, or of several as rows of a batch."""

    prompt: torch.Tensor
    """Shape (rows, tokens, width)."""
    negative: torch.Tensor | None
    pooled: torch.Tensor | None = None
    """Shape (rows, width), of models that use it."""
    negative_pooled: torch.Tensor | None = None

    def between(self, other: "Embedding", t: float, interpolation: Interpolation = "lerp") -> "Embedding":
        """Interpolate from this embedding to another at `t` in [0, 1], token by token."""
        interpolate = slerp if interpolation == "slerp" else lerp
        return _fieldwise(lambda a, b: interpolate(a, b, t), self, other)

    @staticmethod
    def batch(rows: Sequence["Embedding"]) -> "Embedding":
        """Return embeddings as the rows of a single one."""
        return _fieldwise(lambda *tensors: torch.cat(tensors), *rows)


def _fieldwise(combine: Callable[..., torch.Tensor], *embeddings: Embedding) -> Embedding:
    """Combine embeddings tensor by tensor; all must have the same tensors."""

    def combined(name: str) -> Any:
        column = [getattr(embedding, name) for embedding in embeddings]
        return None if column[0] is None else combine(*column)

    return Embedding(**{field.name: combined(field.name) for field in fields(Embedding)})


def lerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Interpolate linearly from a to b at `t` in [0, 1]."""
    return (1 - t) * a + t * b


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Interpolate spherically from a to b at `t` in [0, 1], for each vector of their last dimension.

    Vectors that lie on one line through the origin have no arc between them, and are interpolated linearly.
    Source: Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).unsqueeze(-1)
    angle = torch.acos(cosine.clamp(-PARALLEL, PARALLEL))
    arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return torch.where(cosine.abs() < PARALLEL, arc, lerp(a, b, t)).to(a.dtype)
