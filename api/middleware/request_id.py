"""An id for each request, by which its answer, its problem document and its log lines are found together."""

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
    """Gives each request an id: that of a trusted proxy, or else one of our own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "http":
            request_id = _given(scope) or secrets.token_hex(16)
            response_headers(scope)[HEADER] = request_id
            # Bound for good, so that what the server logs of an error after us has it, too. Each request has a
            # context of its own, which the threads that work for it inherit.
            structlog.contextvars.bind_contextvars(request_id=request_id)
        await self._app(scope, receive, send)


def _given(scope: Scope) -> str | None:
    """Return the id that a trusted proxy gave; what a stranger sends may not get into the logs."""
    given = Headers(scope=scope).getlist(HEADER)
    peer = scope["client"][0] if scope.get("client") else ""
    if len(given) == 1 and _VALID.fullmatch(given[0]) and is_among(peer, settings().trusted_proxies):
        return given[0]
    return None


def current() -> str | None:
    """Return the id of the request that is being answered, if there is one."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found
