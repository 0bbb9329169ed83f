"""Response headers that are set before the response is created."""

from starlette.types import Scope


def response_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that the response to a request will have, even if it is an error; callers add to them."""
    headers: dict[str, str] = scope.setdefault("state", {}).setdefault("response_headers", {})
    return headers
