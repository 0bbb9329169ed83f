"""How operators see the API: its requests counted, timed and traced, and its health on METRICS_PORT."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPMethod, HTTPStatus

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momalisa.telemetry import metrics, tracing

UNTRACED = ("/healthz", "/readyz", "/static/")
"""Paths that are requested too often to be worth tracing."""

TURN_SECONDS = 5
"""The event loop is stuck that does not come round for so long."""


class Telemetry:
    """Counts requests, times them up to the first byte of the answer, and traces them.

    Each begins a trace of its own: what a stranger's `traceparent` says is not believed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(UNTRACED):
            await self._serve(scope, receive, send, trace.INVALID_SPAN)
        else:
            with tracing.span(scope["method"], kind=SpanKind.SERVER) as span:
                await self._serve(scope, receive, send, span)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
        started = time.monotonic()
        answered = False

        def record(status: int, *, waited: bool) -> None:
            nonlocal answered
            answered = True
            method, route = _method(scope), _route(scope)
            metrics.record(metrics.HTTP_REQUESTS, method=method, route=route, status=str(status))
            if not waited:
                seconds = time.monotonic() - started
                metrics.record(metrics.HTTP_SECONDS, seconds, method=method, route=route)
            span.update_name(f"{method} {route}")
            span.set_attribute("http.request.method", method)
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                tracing.failed(f"answered {status}")

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Who asked to be answered once something changes (`Prefer: wait`) was not kept waiting by us.
                waited = any(name.lower() == b"preference-applied" for name, _ in message["headers"])
                record(message["status"], waited=waited)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except Exception:
            if not answered:
                record(HTTPStatus.INTERNAL_SERVER_ERROR, waited=False)
            raise


def _method(scope: Scope) -> str:
    """Return the method of a request; there are only so many, whatever strangers make up."""
    return scope["method"] if scope["method"] in HTTPMethod.__members__ else "other"


def _route(scope: Scope) -> str:
    """Return the pattern of the path that a request was for; there are only so many, whatever strangers ask for."""
    return getattr(scope.get("route"), "path", None) or "unknown"


@asynccontextmanager
async def lifespan(not_ready: Callable[[], str | None]) -> AsyncIterator[None]:
    """Serve METRICS_PORT and export traces while the app runs.

    Args:
        not_ready: returns why the app cannot serve requests, or None if it can.
    """
    loop = asyncio.get_running_loop()

    def stuck() -> str | None:
        try:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(TURN_SECONDS)
        except TimeoutError:
            return f"The event loop did not come round within {TURN_SECONDS} seconds."
        return None

    server = metrics.serve(metrics.API, alive=stuck, ready=not_ready)
    tracing.start("api")
    try:
        yield
    finally:
        tracing.stop()
        if server is not None:
            server.close()
