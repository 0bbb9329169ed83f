"""Where this site is, as its visitors see it."""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api import addresses
from momalisa.settings import settings

NEARBY = (".localhost", ".local", ".internal", ".home.arpa")
"""Ends of names that cannot be registered: RFC 6761, RFC 6762, ICANN's private-use domain, RFC 8375."""


class NoForeignHost:
    """Hides the Host header from what makes links, unless it names a machine nearby and PUBLIC_URL is unset.

    Anybody can send any Host, and an answer that repeats it may be kept by a cache or followed by a program.
    Without a host, all links are relative, also those that the framework makes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "http" and (settings().public_url or not _is_nearby(Headers(scope=scope)["host"])):
            # In place: outer middleware reads the route that the router puts here.
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"host"]
            scope["server"] = None
        await self._app(scope, receive, send)


def _is_nearby(host: str) -> bool:
    """Tell whether a host is this machine or one of its network: a name or an address that no stranger can have."""
    name = urlsplit(f"//{host}").hostname or ""
    if address := addresses.parse(name):
        return address.is_private
    # A name without a dot is one of the network; browsers take one that begins with a digit for an address.
    return name[:1].isalpha() and ("." not in name or name.endswith(NEARBY))


def url(request: Request) -> str:
    """Return the address of this site without a slash at its end; empty, for relative links, if it is not known."""
    return (settings().public_url or str(request.base_url)).rstrip("/")


def is_https(request: Request) -> bool:
    """Tell whether visitors reach this site by https."""
    return urlsplit(settings().public_url or f"{request.scope['scheme']}:").scheme == "https"
