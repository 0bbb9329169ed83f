"""How the server talks to connections: how long it waits for headers, and how long it keeps a connection."""

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.middleware.headers import MOST_HEADER_BYTES

HEADER_SECONDS = 15
"""How long the address and the headers of a request may take to arrive; uvicorn would wait for ever."""

KEEP_ALIVE_SECONDS = 620
"""How long an idle connection is kept: longer than any proxy in front of us keeps it.

Else the proxy would send a request into a connection that we close just then. Google's load balancers keep theirs
for 600 seconds, and NGINX its for 60.
"""

MOST_QUEUED = 100
"""Requests of one connection that wait for the answer to an earlier one; uvicorn would keep all that arrive."""


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that waits only so long for headers, and takes only so many, and only so many requests at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Read on; what follows an answer is the next request."""
        if self._headers_due is None and not self._answering():
            self._wait_for_headers()
        due = self._headers_due
        super().data_received(data)
        if due is None or due is not self._headers_due:
            return  # no headers, or those of a request that begins somewhere in the data
        self._unread += len(data)
        if self._unread > 2 * MOST_HEADER_BYTES and not self.transport.is_closing():
            if self._answering():
                self.transport.close()  # what we wrote would be taken for a part of the answer
            else:
                self.send_400_response("The headers of the request are too large.")

    def on_message_begin(self) -> None:
        """Wait for headers also while an earlier request is answered; if they are late, that one ends with them."""
        super().on_message_begin()
        if self._headers_due is None:
            self._wait_for_headers()

    def on_headers_complete(self) -> None:
        """Stop waiting; the application takes over."""
        self._headers_arrived()
        super().on_headers_complete()
        if len(self.pipeline) > MOST_QUEUED:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._headers_arrived()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._unread = 0
        self._headers_due = self.loop.call_later(HEADER_SECONDS, self.timeout_keep_alive_handler)

    def _headers_arrived(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None
