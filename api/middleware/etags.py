"""Entity tags for responses that have none, and 304 for clients that have the current response."""

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TAGGED = ("application/json", "text/html")
"""Media types of responses that are sent in one piece, so that they can be hashed."""

ABOUT_CONTENT = ("content-length", "content-type", "content-encoding")


def matches(if_none_match: str | None, tag: str) -> bool:
    """Return whether an If-None-Match header contains an entity tag, by weak comparison (RFC 9110, 8.8.3.2)."""
    if if_none_match is None:
        return False
    given = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return "*" in given or tag.removeprefix("W/") in given


class EntityTags:
    """Adds a hash as weak entity tag to responses to GET, and answers 304 if the client has the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; weak tags remain valid when the response is compressed later."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        held: Message | None = None  # the start of a response, until its body is known

        async def send_tagged(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _to_be_tagged(message):
                held = message
                return
            if held is not None:
                start, held = held, None
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    tag = f'W/"{hashlib.sha256(message["body"]).hexdigest()[:32]}"'
                    headers = MutableHeaders(raw=start["headers"])
                    headers["ETag"] = tag
                    if matches(Headers(scope=scope).get("if-none-match"), tag):
                        for name in ABOUT_CONTENT:
                            del headers[name]
                        start, message = {**start, "status": 304}, {**message, "body": b""}
                await send(start)
            await send(message)

        await self._app(scope, receive, send_tagged)


def _to_be_tagged(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return (
        start["status"] == 200  # noqa: PLR2004
        and "etag" not in headers
        and headers.get("content-type", "").startswith(TAGGED)
        and "no-store" not in headers.get("cache-control", "")
    )
