"""Whose pages may change something here: our own, and those of CORS_ORIGINS without the cookies of visitors."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momalisa.errors import ForeignOriginError
from momalisa.settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""What changes nothing; every other method is guarded, so that a new route cannot forget it."""


class OriginGuard:
    """Refuses what a page of another site has a browser send, unless it shows a key, which no page has by itself.

    A page of CORS_ORIGINS may do what somebody without an identity may: it neither uses nor changes the cookie of
    the visitor in whose browser it runs.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        if "authorization" in request.headers or not _foreign(request):
            await self._app(scope, receive, send)
        elif request.headers.get("origin") in settings().cors_origins:
            without_cookie = [header for header in scope["headers"] if header[0] != b"cookie"]
            await self._app({**scope, "headers": without_cookie}, receive, _without_cookies(send))
        else:
            raise ForeignOriginError("This was sent by a page of another site; such a request needs an API key.")


def _foreign(request: HTTPConnection) -> bool:
    """Tell whether a page of another site sent a request; programs, which say nothing of pages, are no pages."""
    if sites := request.headers.getlist("sec-fetch-site"):
        return not set(sites) <= {"same-origin", "none"}
    public = urlsplit(settings().public_url or "")
    own = {public.netloc.lower(), request.headers.get("host", "").lower()} - {""}
    return any(_host(origin) not in own for origin in request.headers.getlist("origin"))


def _host(origin: str) -> str:
    """Return the host of an origin, with its port if it names one; empty if it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _without_cookies(send: Send) -> Send:
    async def send_without_cookies(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", []) if header[0].lower() != b"set-cookie"]
            message = {**message, "headers": headers}
        await send(message)

    return send_without_cookies
