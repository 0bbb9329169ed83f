"""The HTML form of the website, for browsers without scripts."""

from typing import Any
from urllib.parse import parse_qs

from api.schemas import requests
from api.web import templates
from momalisa.domain import spec
from momalisa.errors import InvalidRequestError

NUMBERS: dict[str, type[int] | type[float]] = {
    name: spec.value_type(name) for name in spec.SETTINGS if spec.value_type(name) in {int, float}
}
"""The types of numeric settings, by name."""

CHECKBOXES = frozenset(name for name in spec.SETTINGS if spec.value_type(name) is bool)
"""Settings that are on if the form names them."""

MAX_FIELDS = 100
MAX_LENGTH = requests.MAX_PROMPT + 100
"""Characters of a value that are kept: more than any field accepts, so that its error can be shown."""


def read(body: bytes) -> dict[str, list[str]]:
    """Return the values of each field of a submitted form, in the order of the page.

    Raises:
        InvalidRequestError: if it has more than MAX_FIELDS.
    """
    try:
        sent = parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidRequestError(f"The form has more than {MAX_FIELDS} fields.") from None
    return {name: [value[:MAX_LENGTH] for value in values] for name, values in sent.items()}


def walk_request(form: dict[str, list[str]]) -> dict[str, Any]:
    """Return the JSON request for a walk that corresponds to a form, without its empty fields.

    An empty first or last stop means the example that its field shows; other empty ones are skipped. A malformed
    number is passed on as text, so that validation reports it.
    """
    stops = [stop.strip() for stop in form.get("prompts", [])]
    if len(stops) > 1:
        first, last = templates.pairs()[0]["prompts"]
        stops = [stops[0] or first, *stops[1:-1], stops[-1] or last]
    request: dict[str, Any] = {"prompts": [stop for stop in stops if stop]}
    request |= {name: name in form for name in CHECKBOXES}
    for name, (*_, value) in form.items():
        text = value.strip()
        if name == "public":
            request["public"] = text == "yes"
        elif name == "size" and text:
            width, _, height = text.partition("x")
            request |= {"width": _number(width, int), "height": _number(height, int)}
        elif name in NUMBERS and text:
            request[name] = _number(text, NUMBERS[name])
        elif name not in {"prompts", "size", *CHECKBOXES} and text:
            request[name] = text
    return request


def _number(text: str, kind: type[int] | type[float]) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text
