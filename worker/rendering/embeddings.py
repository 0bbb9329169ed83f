"""Interpolating text embeddings and noise, on the CPU: not every GPU has float64."""

from collections.abc import Sequence

import torch

from momalisa.domain.spec import Interpolation

Embedding = dict[str, torch.Tensor]
"""The text embeddings of one prompt, or of several as rows of a batch, as a pipeline takes them by name.

Shape (rows, tokens, width); a pooled embedding has no tokens; a mask has no width, and is 1 where a row has a token
and 0 where it is padded.
"""

PROMPT, NEGATIVE = "prompt_embeds", "negative_prompt_embeds"
MASK, NEVER = "mask", 1e-30

FULL_BIAS = 10_000
"""What models subtract from the attention to a token where their mask is 0; in proportion, where it is between."""

TOKENS = 3
"""Dimensions of an embedding of tokens; a pooled one has fewer."""

PARALLEL = 0.9995
"""Cosine of an angle so small that the arc is treated as a line."""


def between(
    start: Embedding, end: Embedding, t: float, interpolation: Interpolation = "lerp", *, masked: bool = True
) -> Embedding:
    """Interpolate from an embedding to another at `t` in (0, 1), token by token.

    Tokens that only one of them has keep their embedding, and count for as much as that one does: their attention
    has the bias ln `t`, so that they come in, and go, without a jump. A united mask would jump at once.

    Args:
        start: where `t` is 0.
        end: where `t` is 1.
        t: the share of `end`.
        interpolation: between tokens.
        masked: whether the model leaves out what is masked; if not, masks are numbers like any others.
    """
    start, end = _of_one_length([start, end])
    interpolate = slerp if interpolation == "slerp" else lerp
    masks = [name for name in start if name.endswith(MASK)]
    found = {
        name: (lerp if name in masks else interpolate)(start[name], end[name], t)  # a mask has no direction
        for name in start
    }
    for name in masks if masked else ():
        here, there = start[name] > 0, end[name] > 0
        share = (1 - t) * here + t * there
        found[name] = torch.where(here | there, 1 + share.clamp_min(NEVER).log() / FULL_BIAS, 0.0)
        embeds = name.removesuffix("_mask").replace("_attention", "_embeds")
        found[embeds] = torch.where((here & ~there)[..., None], start[embeds], found[embeds])
        found[embeds] = torch.where((there & ~here)[..., None], end[embeds], found[embeds])
    return found


def batch(rows: Sequence[Embedding]) -> Embedding:
    """Return embeddings as the rows of a single one."""
    alike = _of_one_length(rows)
    return {name: torch.cat([row[name] for row in alike]) for name in rows[0]}


def _of_one_length(embeddings: Sequence[Embedding]) -> list[Embedding]:
    """Return embeddings with as many tokens each, which mean the same."""
    masked = any(name.endswith(MASK) for name in embeddings[0])
    return _padded(embeddings) if masked else _repeated(embeddings)


def _repeated(embeddings: Sequence[Embedding]) -> list[Embedding]:
    """Return embeddings repeated to the length of the longest, which is a multiple of all (`windows.py`).

    To attention without positions, as in UNets, tokens that come n times each are the same as once: each weighs an
    n-th. Padding instead would take weight from the prompt at once, and the walk would leave its stop with a jump.
    """
    longest = max(tensor.shape[1] for each in embeddings for tensor in each.values() if tensor.dim() == TOKENS)
    return [
        {
            name: tensor.repeat(1, longest // tensor.shape[1], 1) if tensor.dim() == TOKENS else tensor
            for name, tensor in each.items()
        }
        for each in embeddings
    ]


def _padded(embeddings: Sequence[Embedding]) -> list[Embedding]:
    """Return embeddings with more tokens than the longest, by one: a mask without padding may be dropped."""
    longest = {
        name: max(each[name].shape[1] for each in embeddings) + 1
        for name in embeddings[0]
        if len({each[name].shape[1] for each in embeddings}) > 1
    }

    def padded(name: str, tensor: torch.Tensor) -> torch.Tensor:
        missing = longest.get(name, tensor.shape[1]) - tensor.shape[1]
        return torch.nn.functional.pad(tensor, (0, 0, 0, missing) if name.endswith("embeds") else (0, missing))

    return [{name: padded(name, tensor) for name, tensor in each.items()} for each in embeddings]


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
