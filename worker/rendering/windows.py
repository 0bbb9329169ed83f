"""Prompts of any length and with weights, for models that read by CLIP.

A long prompt is read in windows of as many tokens as the encoder takes at once, one after another. Each window is a
text, which the stock pipeline encodes as it would any prompt: a prompt that fits into one window and has no weights
gets exactly the pipeline's own embedding (`docs/decisions/0033-long-prompts.md`).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch

from momalisa.domain.prompts import parse
from worker.rendering.embeddings import NEGATIVE, PROMPT, Embedding

BACKTRACK = 20
"""A window ends after a comma if there is one among its last so many tokens, as in AUTOMATIC1111's web UI."""

Encode = Callable[[str, str | None], Embedding]
"""Returns the embedding of a prompt and a negative prompt as the pipeline would make it."""


class Token(NamedTuple):
    """Where a token lies in a text."""

    start: int
    width: int
    """How many vectors it has: more than one for some textual inversions."""


class Window(NamedTuple):
    """A part of a prompt that is encoded at once."""

    text: str
    weights: tuple[float, ...]
    """Of each of its tokens, without those that begin and end it."""


class Reading(NamedTuple):
    """How a prompt is read."""

    windows: list[Window]
    cut_off: str | None
    """As much as is read, if that is not all."""


def read(tokenizer: Any, prompt: str, most: int) -> Reading:
    """Return how a prompt is read.

    Args:
        tokenizer: of CLIP.
        prompt: possibly with weights (`domain.prompts`).
        most: the most windows; the rest is left out.
    """
    text, weights = _weighted(prompt)
    parts = split(tokenizer, text, tokenizer.model_max_length - tokenizer.num_special_tokens_to_add())
    windows, start = [], 0
    for part in parts[:most]:
        found = ([weights[start + token.start]] * token.width for token in tokens(tokenizer, part))
        windows.append(Window(part, tuple(chain.from_iterable(found))))
        start += len(part)
    return Reading(windows, text[:start] if len(parts) > most else None)


def _weighted(prompt: str) -> tuple[str, list[float]]:
    """Return a prompt without its brackets, and the weight of each character.

    Words are separate where the weight changes: so they are tokens of their own.
    """
    text, weights = "", []
    for fragment in parse(prompt):
        separate = text and fragment.text and not text[-1].isspace() and not fragment.text[0].isspace()
        added = " " * bool(separate) + fragment.text
        text += added
        weights += [fragment.weight] * len(added)
    return text, weights


def tokens(tokenizer: Any, text: str) -> list[Token]:
    """Return the tokens of a text, without those that begin and end it."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    names, added = tokenizer.convert_ids_to_tokens(encoded.input_ids), tokenizer.added_tokens_encoder
    found = []
    for name, (start, _) in zip(names, encoded.offset_mapping, strict=True):
        width = 1
        while name in added and f"{name}_{width}" in added:  # as diffusers names the vectors of a textual inversion
            width += 1
        found.append(Token(start, width))
    return found


def split(tokenizer: Any, text: str, room: int) -> list[str]:
    """Return a text as parts of at most `room` tokens each, cut after commas or between words where possible."""
    parts: list[str] = []
    while True:
        found = tokens(tokenizer, text)
        fitting = sum(filled <= room for filled in accumulate(token.width for token in found))
        if fitting == len(found):
            return [*parts, text]
        end = _cut(text, [token.start for token in found[1 : fitting + 1]])
        while end > 1 and sum(token.width for token in tokens(tokenizer, text[:end])) > room:
            end -= 1  # the beginning of a word may have more tokens by itself
        parts.append(text[:end])
        text = text[end:]


def _cut(text: str, starts: Sequence[int]) -> int:
    """Return where to cut a text: at one of the starts of tokens, the later the better."""
    commas = [start for start in starts[-BACKTRACK:] if text[:start].rstrip().endswith(",")]
    spaces = [start for start in starts if text[:start][-1:].isspace()]
    return max([1, *(commas or spaces or starts)[-1:]])


def embed(encode: Encode, prompt: Sequence[Window], negative: Sequence[Window] | None) -> Embedding:
    """Return the embedding of a prompt and a negative prompt; pooled, of the first window of each.

    Args:
        encode: encodes windows.
        prompt: at least one window.
        negative: at least one window, or None without guidance.
    """
    embedding = encode(prompt[0].text, None if negative is None else negative[0].text)
    for name, windows in ((PROMPT, prompt), (NEGATIVE, negative)):
        if windows is not None and name in embedding:
            embedding[name] = _all(encode, embedding[name], windows)
    return embedding


def _all(encode: Encode, first: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
    """Return the embeddings of some windows, of which the first is there, one after another.

    A weight moves the embedding of a token away from that of no prompt at all, or towards it. There are a power of
    two of windows, the last ones empty: so the length of each embedding is a multiple of that of any shorter one.
    """
    if len(windows) == 1 and all(weight == 1 for weight in windows[0].weights):
        return first
    nothing = encode("", None)[PROMPT]
    found = [first, *(encode(window.text, None)[PROMPT] for window in windows[1:])]
    for number, window in enumerate(windows):
        weights = torch.ones(nothing.shape[1])
        weights[1 : 1 + len(window.weights)] = torch.tensor(window.weights)
        weights = weights[None, :, None]
        moved = nothing + weights * (found[number] - nothing)
        found[number] = torch.where(weights == 1, found[number], moved)
    empty = (1 << (len(found) - 1).bit_length()) - len(found)
    return torch.cat([*found, *[nothing] * empty], dim=1)
