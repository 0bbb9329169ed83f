"""The names of a walk's files, after its prompts."""

import unicodedata
from collections.abc import Sequence


def file_name(prompts: Sequence[str], walk_id: object) -> str:
    """Return the name of a walk's files, without an extension, such as "a-giraffe-to-a-battleship-7f3a".

    It ends in the beginning of the walk's id, so that walks with the same prompts have different names.
    """
    return f"{slug(prompts)}-{str(walk_id)[:4]}"


def slug(prompts: Sequence[str]) -> str:
    """Return prompts as a part of a file name, such as "a-giraffe-to-a-battleship".

    It keeps letters, digits and emoji of all scripts, and has at most 80 characters and 180 bytes, since file
    systems accept names of 255.
    """
    name = "-to-".join(filter(None, map(_hyphenated, prompts)))
    end = min(len(name), 80)
    while len(name[:end].encode()) > 180 or unicodedata.category(name[end : end + 1] or "-")[0] == "M":  # noqa: PLR2004
        end -= 1
    return name[:end].strip("-") or "walk"


def _hyphenated(text: str) -> str:
    """Return a text in lower case with hyphens for spaces and punctuation, and without invisible characters."""
    return "-".join("".join(map(_in_file_names, unicodedata.normalize("NFC", text).lower())).split())


def _in_file_names(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cf", "Sk"}:  # joiners and modifiers of emoji, marks of direction
        return ""
    return character if category[0] in "LMN" or category in {"So", "Cn"} else " "
