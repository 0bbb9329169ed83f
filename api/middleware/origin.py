"""Protection against cross-site requests: only our own pages may use a visitor's cookie to change something."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momalisa.errors import ForeignOriginError
from momalisa.settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; all others are checked, so that a new route cannot forget it."""


class OriginGuard:
    """Refuses requests that a page of another site makes a browser send, unless they have an API key.

    A page of CORS_ORIGINS acts as an anonymous visitor: it neither uses nor changes the cookie of the browser.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
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
            raise ForeignOriginError("A page of another site sent this request; such requests need an API key.")


def _foreign(request: HTTPConnection) -> bool:
    """Return whether a page of another site sent a request; programs send none of these headers."""
    if sites := request.headers.getlist("sec-fetch-site"):
        return not set(sites) <= {"same-origin", "none"}
    public = urlsplit(settings().public_url or "")
    own = {public.netloc.lower(), request.headers.get("host", "").lower()} - {""}
    return any(_host(origin) not in own for origin in request.headers.getlist("origin"))


def _host(origin: str) -> str:
    """Return the host of an origin, with its port if it has one; empty if it is not a URL."""
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
