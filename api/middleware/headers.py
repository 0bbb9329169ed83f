"""Checks of a request's headers before anything parses them: their size, Host, and X-Forwarded-Proto."""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.addresses import is_among
from momalisa.errors import HeadersTooLargeError, InvalidHostError, UrlTooLongError
from momalisa.settings import settings

MAX_LINE_BYTES = 8 * 1024
"""Maximum size of the URL and of each header; a cookie parser takes seconds for more."""

MAX_HEADER_BYTES = 32 * 1024
"""Maximum size of all headers together, the same as NGINX's."""

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class HeaderChecks:
    """Refuses malformed and oversized headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _check(scope)
        if proto := _forwarded_scheme(scope):
            scope["scheme"] = proto
        await self._app(scope, receive, send)


def _check(scope: Scope) -> None:
    """Check the size and the host of a request.

    Raises:
        UrlTooLongError: if its path and query are longer than MAX_LINE_BYTES.
        HeadersTooLargeError: if a header is larger than MAX_LINE_BYTES, or all together than MAX_HEADER_BYTES.
        InvalidHostError: if it has no Host header, more than one, or an invalid one.
    """
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > MAX_LINE_BYTES:
        raise UrlTooLongError(f"The path and query of the request must have at most {MAX_LINE_BYTES} bytes.")
    sizes = [len(name) + len(value) for name, value in scope["headers"]]
    if max(sizes, default=0) > MAX_LINE_BYTES:
        raise HeadersTooLargeError(f"Each header of the request must have at most {MAX_LINE_BYTES} bytes.")
    if sum(sizes) > MAX_HEADER_BYTES:
        raise HeadersTooLargeError(f"The headers of the request must have at most {MAX_HEADER_BYTES} bytes in all.")
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or not _is_host(hosts[0]):
        raise InvalidHostError(
            "The request must have exactly one Host header: a host name or an address, optionally with a port."
        )


def _is_host(text: str) -> bool:
    """Return whether a text is a valid host, with or without a port."""
    try:
        return _HOST.fullmatch(text) is not None and urlsplit(f"//{text}").port != 0
    except ValueError:  # an invalid address in brackets, or a port above 65535
        return False


def _forwarded_scheme(scope: Scope) -> str | None:
    """Return the scheme by which the client reached a trusted proxy, if the proxy sent it."""
    given = Headers(scope=scope).getlist("x-forwarded-proto")
    peer = scope["client"][0] if scope.get("client") else ""
    if given in (["http"], ["https"]) and is_among(peer, settings().trusted_proxies):
        return given[0]
    return None
