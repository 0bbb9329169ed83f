"""What is wrong with the fields of a request, in plain words."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel, Field

# Bounds of what an error response repeats: with these, a problem document has at most 8 kB.
MOST_ERRORS = 20
MOST_ERROR_BYTES = 4500
MOST_DETAIL = 700
MOST_MESSAGE = 300
MOST_GOT = 80


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(examples=["prompts[0]"])
    message: str = Field(examples=["at most 300 characters, got 400"])


def field_errors(found: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """Return what pydantic found wrong, in plain words, with the name of each field; of much only the first."""
    errors: list[FieldError] = []
    room = MOST_ERROR_BYTES
    for item in islice(found, MOST_ERRORS):
        error = FieldError(field=_field(item["loc"]), message=_message(item))
        room -= len(error.model_dump_json().encode())
        if room < 0:
            break
        errors.append(error)
    return errors


def short(sent: object, most: int = MOST_GOT) -> str:
    """Return what a caller sent as far as it is worth repeating: its first characters, as far as they print."""
    text = sent if isinstance(sent, str) else repr(sent)
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text[:most])
    return shown if len(text) <= most else f"{shown[:-1]}…"


def _field(location: tuple[int | str, ...]) -> str:
    """Write a location such as ("prompts", 0) the way people do: prompts[0]."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return short(name.lstrip(".")) or "body"


_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a field that is known here",
    "string_too_long": "at most {max_length} characters, got {length}",
    "string_too_short": "must not be empty",
    "too_short": "at least {min_length} are needed, got {actual_length}",
    "too_long": "at most {max_length} are allowed, got {actual_length}",
    "greater_than_equal": "at least {ge}, got {got}",
    "greater_than": "more than {gt:g}, got {got}",
    "less_than_equal": "at most {le}, got {got}",
    "literal_error": "must be {expected}, got {quoted}",
    "multiple_of": "must be a multiple of {multiple_of}, got {got}",
    "value_error": "{error}",
    "uuid_parsing": "must be an id such as 123e4567-e89b-42d3-a456-426614174000, got {quoted}",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "model_attributes_type": "must be a JSON object",
}
"""What a field must be and what it was, in plain words, by pydantic's type of error."""


def _message(item: Mapping[str, Any]) -> str:
    got = item.get("input")
    if template := _MESSAGES.get(item["type"]):
        said = {"got": short(got), "quoted": repr(short(got)) if isinstance(got, str) else short(got)}
        length = len(got) if isinstance(got, str) else 0
        return short(template.format_map({**item.get("ctx", {}), **said, "length": length}), MOST_MESSAGE)
    message = str(item["msg"])
    return short(message[0].lower() + message[1:], MOST_MESSAGE)
