"""Metrics and traces of requests, and the health of the API on METRICS_PORT."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPMethod, HTTPStatus
from itertools import product

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momalisa.telemetry import metrics, tracing

PROBES = ("/healthz", "/readyz")
"""Paths that only load balancers, orchestrators and health checks request: neither counted nor traced."""

SUBMISSIONS = ("/v1/walks", "/walks")
"""Routes to which walks are submitted: the API's, and that of the plain form."""

UNTRACED = "/static/"
"""What is requested too often to be worth tracing."""

STUCK_SECONDS = 5
"""An event loop that runs nothing for this long is stuck."""


class Telemetry:
    """Counts requests except probes, times them up to the first byte of the response, and traces them.

    Each request starts a new trace: the `traceparent` of clients is not trusted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"] in PROBES:
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
                # The time of a response that the client asked to delay (`Prefer: wait`) says nothing.
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
    """Return the method of a request, with one label for all unknown methods."""
    return scope["method"] if scope["method"] in HTTPMethod.__members__ else "other"


def _route(scope: Scope) -> str:
    """Return the route pattern of a request, with one label for all unknown paths."""
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
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(STUCK_SECONDS)
        except TimeoutError:
            return f"The event loop has been stuck for {STUCK_SECONDS} seconds."
        return None

    for route, status in product(SUBMISSIONS, (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)):
        # At 0, since the first failed submission would be no increase of a counter that is not there yet.
        metrics.record(metrics.HTTP_REQUESTS, 0, method="POST", route=route, status=str(status.value))
    server = metrics.serve(metrics.API, alive=stuck, ready=not_ready)
    tracing.start("api")
    try:
        yield
    finally:
        tracing.stop()
        if server is not None:
            server.close()
