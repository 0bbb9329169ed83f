"""HEAD and OPTIONS for every path, and the methods of a path."""

from http import HTTPStatus

import anyio
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TRIED = ("DELETE", "GET", "PATCH", "POST", "PUT")


class Methods:
    """Answers HEAD like GET without the body, and OPTIONS with the methods of the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "OPTIONS" and (methods := allowed(scope)):
            await Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": methods})(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "GET"  # in place: outer middleware reads the route that the router puts here

        async def send_without_body(message: Message) -> None:
            if message["type"] != "http.response.start":
                return
            scope["method"] = "HEAD"
            await send(message)
            await send({"type": "http.response.body"})
            if Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream"):
                rest.cancel()  # it would continue as long as there are events

        with anyio.CancelScope() as rest:
            await self._app(scope, receive, send_without_body)


def allowed(scope: Scope) -> str:
    """Return the methods of the path of a request as an Allow header lists them; empty if there is no such path."""
    app: FastAPI = scope["app"]
    # The path as it was before a mount removed its prefix.
    original = {**scope, "root_path": scope.get("app_root_path", scope["root_path"])}
    found = {method for method in _TRIED if _matches(app, {**original, "method": method})}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found | {"OPTIONS"})) if found else ""


def _matches(app: FastAPI, scope: Scope) -> bool:
    return any(
        route.matches(scope)[0] is Match.FULL and (not isinstance(route, Mount) or scope["method"] == "GET")
        for route in app.routes
    )  # mounted apps serve files
