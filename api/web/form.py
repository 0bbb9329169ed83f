"""The plain form of the website, for browsers that run no scripts."""

from typing import Any
from urllib.parse import parse_qs

from momalisa.domain import spec
from momalisa.errors import InvalidRequestError

NUMBERS: dict[str, type[int] | type[float]] = {
    name: spec.kind(name) for name in spec.SETTINGS if spec.kind(name) in {int, float}
}
"""By the name of the field."""

MOST_FIELDS = 100
MOST_LETTERS = 400
"""Of a value; more than any field takes, and few enough to show them again with what is wrong."""


def read(body: bytes) -> dict[str, list[str]]:
    """Return the values of each field of a form as it was sent, in the order of the page.

    Raises:
        InvalidRequestError: if there are more than a form of ours has.
    """
    try:
        sent = parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidRequestError(f"The form has more than {MOST_FIELDS} fields.") from None
    return {name: [value[:MOST_LETTERS] for value in values] for name, values in sent.items()}


def walk_request(form: dict[str, list[str]]) -> dict[str, Any]:
    """Return the body of the request for a walk that a form asks for; what is left empty is left to the server.

    Empty stops between others are passed over, but not the first two, so that the answer can name what is missing.
    A malformed number is passed on as it is, so that validation names it.
    """
    stops = [stop.strip() for stop in form.get("prompts", [])]
    request: dict[str, Any] = {"prompts": [stop for place, stop in enumerate(stops) if stop or place < 2]}  # noqa: PLR2004
    for name, (*_, value) in form.items():
        text = value.strip()
        if name == "public":
            request["public"] = text == "yes"
        elif name == "size" and text:
            width, _, height = text.partition("x")
            request |= {"width": _number(width, int), "height": _number(height, int)}
        elif name in NUMBERS and text:
            request[name] = _number(text, NUMBERS[name])
        elif name not in {"prompts", "size"} and text:
            request[name] = text
    return request


def _number(text: str, kind: type[int] | type[float]) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text
