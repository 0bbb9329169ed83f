"""Response headers that are known before there is a response."""

from starlette.types import Scope


def response_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that every response to a request gets, also an error; callers add to them."""
    headers: dict[str, str] = scope.setdefault("state", {}).setdefault("response_headers", {})
    return headers
