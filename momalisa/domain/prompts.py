r"""The syntax of prompts: weights, as the web UI of AUTOMATIC1111 reads them (`modules/prompt_parser.py` there).

| written | read |
|---|---|
| `(word:1.3)` | "word" with weight 1.3 |
| `(word)`, `((word))` | with weight 1.1, 1.21 |
| `[word]` | with weight 1 / 1.1 |
| `\(`, `\)`, `\[`, `\]`, `\\` | the character itself |

A bracket that is never closed counts up to the end; one that was never opened is a character like any other.
"""

import re
from typing import NamedTuple

ROUND, SQUARE = 1.1, 1 / 1.1
"""The weight of what is in brackets without a number."""

MOST_WEIGHT = 10.0
"""Weights are kept between this and its opposite: more overflows the models' number formats."""

MOST_QUOTED = 60
"""Characters of a prompt in a sentence."""

_PARTS = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\])
    | :\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | [()\[\]]
    | [^\\()\[\]:]+
    | [\\:]
    """,
    re.VERBOSE,
)

_OTHERS = re.compile(
    r"""
    <(?:lora|lyco|hypernet):[^<>]*>
    | \[[^\[\]]*:\s*(?:\d+\.?\d*|\.\d+)\s*\]      # [a:b:0.5] and [a:0.5], which change with the steps
    | \[[^\[\]]*\|[^\[\]]*\]                      # [a|b], which alternates
    | \b(?:BREAK|AND)\b
    """,
    re.VERBOSE,
)


class Fragment(NamedTuple):
    """A part of a prompt in which all words weigh the same."""

    text: str
    weight: float


def parse(prompt: str) -> tuple[Fragment, ...]:
    """Return the fragments of a prompt, at least one; without any of the syntax, the prompt as it is."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for place in range(opened[bracket].pop(), len(weights)):
            weights[place] *= factor

    def add(text: str) -> None:
        texts.append(text)
        weights.append(1.0)

    for part in _PARTS.finditer(prompt):
        text, number = part[0], part["number"]
        if text in opened:
            opened[text].append(len(texts))
        elif opened["("] and (number or text == ")"):
            close("(", float(number or ROUND))
        elif opened["["] and text == "]":
            close("[", SQUARE)
        else:
            add(part["escaped"] or text)
    while opened["("]:
        close("(", ROUND)
    while opened["["]:
        close("[", SQUARE)
    return _merged(texts, [max(-MOST_WEIGHT, min(weight, MOST_WEIGHT)) for weight in weights])


def _merged(texts: list[str], weights: list[float]) -> tuple[Fragment, ...]:
    """Return texts as fragments, neighbours of the same weight as one."""
    found: list[Fragment] = []
    for text, weight in zip(texts, weights, strict=True):
        if found and found[-1].weight == weight:
            found[-1] = Fragment(found[-1].text + text, weight)
        else:
            found.append(Fragment(text, weight))
    return tuple(found) or (Fragment("", 1.0),)


def words(prompt: str) -> str:
    """Return a prompt without its weights."""
    return "".join(fragment.text for fragment in parse(prompt))


def has_weights(prompt: str) -> bool:
    """Return whether a prompt uses the syntax of weights."""
    return parse(prompt) != (Fragment(prompt, 1.0),)


def quoted(text: str) -> str:
    """Return a text in quotation marks, cut off if it is long."""
    return f"“{text}”" if len(text) <= MOST_QUOTED else f"“{text[:MOST_QUOTED].rstrip()}…”"


def other_syntax(prompt: str) -> list[str]:
    """Return what in a prompt means something to other programs, but is read as words here."""
    return [found[0] for found in _OTHERS.finditer(prompt)]
