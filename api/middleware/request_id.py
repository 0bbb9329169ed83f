"""An id for each request, which its response, its problem document and its log lines have in common."""

import re
import secrets

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.addresses import is_among
from api.response_headers import response_headers
from momalisa.settings import settings

HEADER = "X-Request-Id"

_VALID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


class RequestId:
    """Gives each request an id: that of a trusted proxy, or else a random one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http":
            request_id = _given(scope) or secrets.token_hex(16)
            response_headers(scope)[HEADER] = request_id
            # Never unbound, so that the server's own log of an error has it, too. Each request has its own context,
            # which its threads inherit.
            structlog.contextvars.bind_contextvars(request_id=request_id)
        await self._app(scope, receive, send)


def _given(scope: Scope) -> str | None:
    """Return the id that a trusted proxy sent; that of anyone else must not get into the logs."""
    given = Headers(scope=scope).getlist(HEADER)
    peer = scope["client"][0] if scope.get("client") else ""
    if len(given) == 1 and _VALID.fullmatch(given[0]) and is_among(peer, settings().trusted_proxies):
        return given[0]
    return None


def current() -> str | None:
    """Return the id of the current request, if there is one."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found
