"""How large a request may be, and how long it may take to be sent."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momalisa.errors import TooLargeError, TooSlowError

MOST_BYTES = 64 * 1024

LONGEST_SECONDS = 30


class BodyLimit:
    """Refuses bodies that are too large, with or without Content-Length, or too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection; a body is read whole before anything is done with it."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        read = False

        async def receive_again() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)


async def _read(receive: Receive) -> bytes | None:
    """Return a body, or None if the client hung up.

    Raises:
        TooLargeError: if it has more than MOST_BYTES.
        TooSlowError: if it takes longer than LONGEST_SECONDS.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            while len(body) <= MOST_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise TooSlowError(f"The body of a request is sent within {LONGEST_SECONDS} seconds.") from None
    if len(body) > MOST_BYTES:
        raise TooLargeError(f"The body of a request has at most {MOST_BYTES} bytes.")
    return bytes(body)
