"""Errors of the fields of a request, as readable messages."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel, Field

# With these limits, a problem document has at most 8 kB.
MAX_ERRORS = 20
MAX_ERROR_BYTES = 4500
MAX_DETAIL = 700
MAX_MESSAGE = 300
MAX_GOT = 80


class FieldError(BaseModel):
    """An error of a field of a request."""

    field: str = Field(examples=["prompts[0]"])
    message: str = Field(examples=["at most 2000 characters, got 2400"])


def field_errors(found: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """Return pydantic's errors as readable messages with the names of the fields; of many, only the first."""
    errors: list[FieldError] = []
    left = MAX_ERROR_BYTES
    for item in islice(found, MAX_ERRORS):
        error = FieldError(field=_field(item["loc"]), message=_message(item))
        left -= len(error.model_dump_json().encode())
        if left < 0:
            break
        errors.append(error)
    return errors


def short(sent: object, length: int = MAX_GOT) -> str:
    """Return the first characters of what a caller sent, without unprintable ones."""
    text = sent if isinstance(sent, str) else repr(sent)
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text[:length])
    return shown if len(text) <= length else f"{shown[:-1]}…"


def _field(location: tuple[int | str, ...]) -> str:
    """Format a location such as ("prompts", 0) as prompts[0]."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return short(name.lstrip(".")) or "body"


_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is an unknown field",
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
"""Messages by pydantic's error type: what the field must be, and what it was."""


def _message(item: Mapping[str, Any]) -> str:
    got = item.get("input")
    if template := _MESSAGES.get(item["type"]):
        values = {"got": short(got), "quoted": repr(short(got)) if isinstance(got, str) else short(got)}
        length = len(got) if isinstance(got, str) else 0
        return short(template.format_map({**item.get("ctx", {}), **values, "length": length}), MAX_MESSAGE)
    message = str(item["msg"])
    return short(message[0].lower() + message[1:], MAX_MESSAGE)
