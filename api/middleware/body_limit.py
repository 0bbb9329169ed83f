"""Limits of the size of a request body, and of the time that it takes to arrive."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from momalisa.errors import BodyTooLargeError, SlowRequestError

MAX_BYTES = 512 * 1024
"""Every valid walk fits: 10 prompts and as many negative ones of 2,000 characters, each escaped with 12 bytes."""

MAX_SECONDS = 30


class BodyLimit:
    """Refuses bodies that are too large, with or without Content-Length, or too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; its body is read completely before it is passed on."""
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
    """Return the body, or None if the client disconnected.

    Raises:
        BodyTooLargeError: if it has more than MAX_BYTES.
        SlowRequestError: if it takes longer than MAX_SECONDS.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_SECONDS):
            while len(body) <= MAX_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise SlowRequestError(f"The body of the request did not arrive within {MAX_SECONDS} seconds.") from None
    if len(body) > MAX_BYTES:
        raise BodyTooLargeError(f"The body of the request must have at most {MAX_BYTES} bytes.")
    return bytes(body)
