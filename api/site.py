"""The URL of this site, as its visitors see it."""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api import addresses
from momalisa.settings import settings

LOCAL_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")
"""Domains that cannot be registered: RFC 6761, RFC 6762, ICANN's private-use domain, RFC 8375."""


class NoForeignHost:
    """Removes the Host header, unless it names a local machine and PUBLIC_URL is unset.

    Clients can send any Host, and a response that repeats it may be cached or followed by a program. Without Host,
    all links are relative, including those that the framework creates.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and (settings().public_url or not _is_local(Headers(scope=scope)["host"])):
            # In place: outer middleware reads the route that the router puts here.
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"host"]
            scope["server"] = None
        await self._app(scope, receive, send)


def _is_local(host: str) -> bool:
    """Return whether a host is this machine or one in its network: a name or address that no one else can have."""
    name = urlsplit(f"//{host}").hostname or ""
    if address := addresses.parse(name):
        return address.is_private
    # A name without a dot is local; browsers treat one that begins with a digit as an address.
    return name[:1].isalpha() and ("." not in name or name.endswith(LOCAL_DOMAINS))


def url(request: Request) -> str:
    """Return the base URL of this site without a trailing slash; empty, for relative links, if it is unknown."""
    return (settings().public_url or str(request.base_url)).rstrip("/")


def place(request: Request) -> str:
    """Return the path of the requested page, with its query."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def is_https(request: Request) -> bool:
    """Return whether visitors reach this site by https."""
    return urlsplit(settings().public_url or f"{request.scope['scheme']}:").scheme == "https"
