"""The phrases that the text encoder learns: captions of the pictures, and words of WordNet.

Source: WordNet 3.1, Princeton University (WordNet licence).
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.train import teacher
from models.train.captions import with_article
from models.train.pictures import Subject

MANNERS = (
    "a {}",
    "the {}",
    "a photo of a {}",
    "a painting of a {}",
    "an image of a {}",
    "{} artwork",
    "{} in the style of modern art",
    "{} 3d render",
    "{}, 3d",
    "{}, flat",
    "flat {}",
    "flat illustration of a {}",
    "a {}, flat illustration",
)
"""Prompt templates."""

TANGIBLE = {"05", "06", "08", "13", "17", "18", "19", "20"}
"""WordNet's files of animals, artifacts, bodies, foods, objects, people, phenomena and plants."""

USUAL = re.compile(r"[a-z]+( [a-z]+)?")
"""One or two lower-case words, so no proper names."""


@dataclass(frozen=True)
class Words:
    """The parts of WordNet that prompts use."""

    tangible: tuple[str, ...]
    """Nouns for things that can be painted."""
    common: tuple[str, ...]
    """Those for which the teacher has a token, that is, the common ones."""
    others: tuple[str, ...]
    """Other nouns, and verbs."""
    adjectives: tuple[str, ...]


def words(wordnet: Path) -> Words:
    """Read WordNet from its database folder."""
    nouns = list(_read(wordnet / "data.noun"))
    tangible = {noun for noun, file in nouns if file in TANGIBLE}
    all_nouns_and_verbs = {word for word, _ in (*nouns, *_read(wordnet / "data.verb"))}
    adjectives = {adjective for adjective, _ in _read(wordnet / "data.adj") if " " not in adjective}
    common = tangible & teacher.vocabulary()
    others = tuple(sorted(all_nouns_and_verbs - tangible))
    return Words(tuple(sorted(tangible)), tuple(sorted(common)), others, tuple(sorted(adjectives)))


def names(subjects: Sequence[Subject], known: Words) -> list[str]:
    """Return the names whose words become tokens: labels, and common nouns."""
    return sorted({*known.common, *(name for subject in subjects for name in (subject.label, *subject.tags))})


def phrases(subjects: Sequence[Subject], known: Words, seed: int = 2) -> list[str]:
    """Return phrases in a random but fixed order."""
    chance = random.Random(seed)  # noqa: S311
    things = sorted({name for subject in subjects for name in (subject.label, *subject.tags)})
    said = {*things, *known.tangible, *chance.sample(known.others, len(known.others) // 2)}
    said |= {with_article(manner, thing) for thing in (*things, *known.common) for manner in MANNERS}
    for noun in known.tangible:
        said |= {with_article(manner, noun) for manner in ("a {}", chance.choice(MANNERS))}
    some = len(known.tangible)
    for names in (things, known.common):
        said |= {f"{chance.choice(known.adjectives)} {chance.choice(names)}" for _ in range(some // 2)}
    said |= {f"{chance.choice(things)} and {chance.choice(things)}" for _ in range(some // 2)}
    said |= {" ".join(chance.choices(things, k=3)) for _ in range(some // 4)}
    ordered = sorted(said)
    chance.shuffle(ordered)
    return ordered


def _read(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the common words of a WordNet file, each with its lexicographer file. Source: manual page wndb(5WN)."""
    for line in path.read_text().splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" ")
        for field in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
            word = re.sub(r"\(.*\)", "", field).replace("_", " ")
            if USUAL.fullmatch(word):
                yield word, fields[1]
