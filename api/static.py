"""The files of the website: style, scripts, fonts, small pictures."""

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.website import FRONTEND

NEVER_CHANGE = ("/static/fonts/", "/static/vendor/")
"""Folders whose files get another name with other content."""

COMPRESSED_ALREADY = (".woff2", ".webp", ".png")


def files() -> ASGIApp:
    """Return the application that serves them: compressed, and from the cache of the browser where it can be."""
    return _Files(StaticFiles(directory=FRONTEND / "static", check_dir=False))


class _Files:
    def __init__(self, plain: StaticFiles) -> None:
        self._plain = plain
        self._compressed = GZipMiddleware(plain, minimum_size=500)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        kept = "public, max-age=31536000" if path.startswith(NEVER_CHANGE) else "no-cache"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = kept
            await send(message)

        served = self._plain if path.endswith(COMPRESSED_ALREADY) else self._compressed
        await served(scope, receive, send_with_headers)
