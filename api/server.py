"""The HTTP protocol of the server: timeouts of headers and idle connections, and a limit on pipelining."""

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.middleware.headers import MAX_HEADER_BYTES

HEADER_SECONDS = 15
"""Timeout of the request line and headers; uvicorn has none."""

KEEP_ALIVE_SECONDS = 620
"""How long an idle connection is kept: longer than any proxy keeps it.

Otherwise a proxy could send a request while we close the connection. Google's load balancers keep connections for
600 seconds, NGINX for 60.
"""

MAX_PIPELINED = 100
"""Maximum number of pipelined requests of a connection; uvicorn has none."""


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with limits on the time and size of headers, and on the number of pipelined requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request."""
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Read data; after a response, it belongs to the next request."""
        if self._headers_due is None and not self._is_responding():
            self._wait_for_headers()
        due = self._headers_due
        super().data_received(data)
        if due is None or due is not self._headers_due:
            return  # a body, or a request that begins within the data
        self._unread += len(data)
        if self._unread > 2 * MAX_HEADER_BYTES and not self.transport.is_closing():
            if self._is_responding():
                self.transport.close()  # a response would be taken for a part of the current one
            else:
                self.send_400_response("The headers of the request are too large.")

    def on_message_begin(self) -> None:
        """Wait for headers, even while an earlier request is processed; if they are late, both end."""
        super().on_message_begin()
        if self._headers_due is None:
            self._wait_for_headers()

    def on_headers_complete(self) -> None:
        """Stop waiting, and let the application handle the request."""
        self._headers_arrived()
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._headers_arrived()
        super().connection_lost(exc)

    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._unread = 0
        self._headers_due = self.loop.call_later(HEADER_SECONDS, self.timeout_keep_alive_handler)

    def _headers_arrived(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None
