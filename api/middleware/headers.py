"""What a request must look like before anything reads it: headers of a sane size, one Host, a scheme to believe."""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.addresses import is_among
from momalisa.errors import HostError, TooLargeHeadersError, TooLongAddressError
from momalisa.settings import settings

MOST_LINE_BYTES = 8 * 1024
"""Of the address, and of each header: parsers of cookies take seconds for more."""

MOST_HEADER_BYTES = 32 * 1024
"""Of all headers together, as NGINX takes them."""

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class HeaderChecks:
    """Refuses what no honest client sends, before its headers are parsed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _check(scope)
        if proto := _forwarded_scheme(scope):
            scope["scheme"] = proto
        await self._app(scope, receive, send)


def _check(scope: Scope) -> None:
    """Refuse a request that cannot be honest.

    Raises:
        TooLongAddressError: if its path and query are longer than MOST_LINE_BYTES.
        TooLargeHeadersError: if a header, or all of them together, are larger than is taken.
        HostError: if it names no host, more than one, or something that is none.
    """
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > MOST_LINE_BYTES:
        raise TooLongAddressError(f"The address of a request has at most {MOST_LINE_BYTES} bytes.")
    sizes = [len(name) + len(value) for name, value in scope["headers"]]
    if max(sizes, default=0) > MOST_LINE_BYTES:
        raise TooLargeHeadersError(f"A header of a request has at most {MOST_LINE_BYTES} bytes.")
    if sum(sizes) > MOST_HEADER_BYTES:
        raise TooLargeHeadersError(f"The headers of a request have at most {MOST_HEADER_BYTES} bytes in all.")
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or not _is_host(hosts[0]):
        raise HostError(
            "A request has one Host header: a name or an address, and a port if it is not the usual one."
        )


def _is_host(text: str) -> bool:
    """Return whether a text is a host, with or without a port, which URLs can be made of."""
    try:
        return _HOST.fullmatch(text) is not None and urlsplit(f"//{text}").port != 0
    except ValueError:  # no address in the brackets, or a port above 65535
        return False


def _forwarded_scheme(scope: Scope) -> str | None:
    """Return how a visitor reached the trusted proxy in front of us, if it says so; strangers are not believed."""
    given = Headers(scope=scope).getlist("x-forwarded-proto")
    peer = scope["client"][0] if scope.get("client") else ""
    if given in (["http"], ["https"]) and is_among(peer, settings().trusted_proxies):
        return given[0]
    return None
