"""What every answer says to browsers: load nothing that we did not name, guess no types, send no referrer."""

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.response_headers import response_headers
from momalisa.settings import settings

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer that does not set its own."""

API_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
"""Of the API's answers, which depend on who asks."""


class SecurityHeaders:
    """Adds the headers, and those that the request was given on its way (`response_headers`)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = response_headers(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                about_caller = API_HEADERS if scope["path"].startswith("/v1/") else {}
                for name, value in {**HEADERS, **about_caller, **own}.items():
                    if name == "Vary":
                        headers.add_vary_header(value)
                    else:
                        headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def install(app: FastAPI) -> None:
    """Make an app send the headers, and let the pages of the origins call it that are named in the settings."""
    if settings().cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings().cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "If-None-Match",
                "Last-Event-ID",
                "Prefer",
            ],
            expose_headers=[
                "ETag",
                "Link",
                "Location",
                "Preference-Applied",
                "RateLimit",
                "RateLimit-Policy",
                "Retry-After",
                "X-Request-Id",
            ],
            allow_credentials=False,  # the cookies of visitors are for our own pages
        )
    app.add_middleware(SecurityHeaders)
