"""Captions: the prompts with which the denoiser learns a picture."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from models.train import teacher
from models.train.pictures import Subject

MANNERS = {
    "3d": ("{}", "{}", "a {}", "a {}", "the {}", "{} 3d render", "{}, 3d", "a photo of a {}", "a painting of a {}"),
    "flat": ("{}, flat", "{}, flat", "a {}, flat", "flat {}", "flat illustration of a {}"),
}
"""Prompt templates for each style; the more common ones twice. Without a style, the picture is 3D."""

ENDING = {"3d": "", "flat": ", flat"}
"""Style suffixes of captions that do not mention the style otherwise."""

TAGS = 3
"""Tags that are combined with the label."""

SYNONYMS, CLOSE = 24, 0.4
"""Maximum number of synonyms per label, and their minimum similarity (cosine)."""

HELD_OUT = frozenset(Path(__file__).with_name("held_out.txt").read_text().split())
"""Words that no caption may contain, since the benchmark tests them as unseen words."""


def captions(subject: Subject) -> list[str]:
    """Return captions of a subject: its label in many templates, and with one of its tags."""
    spoken = [with_article(manner, subject.label) for manner in MANNERS[subject.style]]
    tags = [tag for tag in subject.tags if tag not in subject.label.split()][:TAGS]
    return spoken + [f"{subject.label} {tag}{ENDING[subject.style]}" for tag in tags]


def with_synonyms(subject: Subject, synonyms: Sequence[str]) -> list[str]:
    """Return captions of a subject with synonyms of its label."""
    said = (*synonyms, *(with_article("a {}", word) for word in synonyms))
    return [f"{word}{ENDING[subject.style]}" for word in said]


def prompts(subjects: Iterable[Subject], synonyms: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return all captions of the pictures of each label."""
    said: dict[str, list[str]] = {}
    for subject in subjects:
        said.setdefault(subject.label, []).extend(
            [*captions(subject), *with_synonyms(subject, synonyms[subject.label])]
        )
    return said


def with_article(manner: str, thing: str) -> str:
    """Insert a thing into a template, with "an" before a vowel."""
    if thing[0] in "aeiou":
        manner = manner.replace("a {}", "an {}")
    return manner.format(thing)


def synonyms_of(labels: Sequence[str], nouns: Sequence[str]) -> dict[str, list[str]]:
    """Return the synonyms of each label: nouns that are closer to it than to any other label, closest first."""
    own = set(labels)
    allowed = [noun for noun in nouns if not holds_word(noun) and noun not in own]
    closest = (teacher.embed(allowed) @ teacher.embed(labels).T).max(dim=1)
    closeness, owner = closest.values.tolist(), closest.indices.tolist()
    synonyms: dict[str, list[str]] = {label: [] for label in labels}
    for index in closest.values.argsort(descending=True).tolist():
        family = synonyms[labels[owner[index]]]
        if closeness[index] >= CLOSE and len(family) < SYNONYMS:
            family.append(allowed[index])
    return synonyms


def holds_word(caption: str) -> bool:
    """Return whether a caption contains a held-out word, in the singular or the plural."""
    words = re.findall(r"[a-z]+", caption.lower())
    return any(word in HELD_OUT or word.removesuffix("s") in HELD_OUT for word in words)
