"""What may be said of a picture: the prompts that the denoiser learns to answer with it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from models.train import teacher
from models.train.pictures import Subject

MANNERS = {
    "3d": ("{}", "{}", "a {}", "a {}", "the {}", "{} 3d render", "{}, 3d", "a photo of a {}", "a painting of a {}"),
    "flat": ("{}, flat", "{}, flat", "a {}, flat", "flat {}", "flat illustration of a {}"),
}
"""How a thing is asked for in either style; the commoner twice. Without a word about style it is 3D."""

ENDING = {"3d": "", "flat": ", flat"}
"""What is said of the style where nothing else is."""

TAGS = 3
"""Tags that are tried with the label."""

KIN, CLOSE = 24, 0.4
"""Words of the same meaning that are tried for a label, at most, and how close they must be (cosine)."""

HELD_OUT = frozenset(Path(__file__).with_name("held_out.txt").read_text().split())
"""Words that no caption may hold: the benchmark asks for them to see what the model makes of words it never saw."""


def captions(subject: Subject) -> list[str]:
    """Return prompts for a subject: its label in many manners, and with a tag of its own."""
    spoken = [with_article(manner, subject.label) for manner in MANNERS[subject.style]]
    tags = [tag for tag in subject.tags if tag not in subject.label.split()][:TAGS]
    return spoken + [f"{subject.label} {tag}{ENDING[subject.style]}" for tag in tags]


def of_kin(subject: Subject, kin: Sequence[str]) -> list[str]:
    """Return prompts for a subject that call it by words of its kin."""
    said = (*kin, *(with_article("a {}", word) for word in kin))
    return [f"{word}{ENDING[subject.style]}" for word in said]


def prompts(subjects: Iterable[Subject], kin: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return for each label all prompts that are answered with its pictures."""
    said: dict[str, list[str]] = {}
    for subject in subjects:
        said.setdefault(subject.label, []).extend([*captions(subject), *of_kin(subject, kin[subject.label])])
    return said


def with_article(manner: str, thing: str) -> str:
    """Put a thing into a phrase, with "an" where it begins with a vowel."""
    if thing[0] in "aeiou":
        manner = manner.replace("a {}", "an {}")
    return manner.format(thing)


def kin_of(labels: Sequence[str], nouns: Sequence[str]) -> dict[str, list[str]]:
    """Return for each label the nouns that mean it rather than any other label, the closest first."""
    own = set(labels)
    allowed = [noun for noun in nouns if not holds_word(noun) and noun not in own]
    closest = (teacher.embed(allowed) @ teacher.embed(labels).T).max(dim=1)
    closeness, owner = closest.values.tolist(), closest.indices.tolist()
    kin: dict[str, list[str]] = {label: [] for label in labels}
    for index in closest.values.argsort(descending=True).tolist():
        family = kin[labels[owner[index]]]
        if closeness[index] >= CLOSE and len(family) < KIN:
            family.append(allowed[index])
    return kin


def holds_word(caption: str) -> bool:
    """Tell whether a caption holds a word that is held out, in the singular or the plural."""
    words = re.findall(r"[a-z]+", caption.lower())
    return any(word in HELD_OUT or word.removesuffix("s") in HELD_OUT for word in words)
