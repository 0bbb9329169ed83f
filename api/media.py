"""The media types that requests may have."""

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from api import access
from api.response_headers import response_headers
from momalisa.errors import UnsupportedMediaTypeError

JSON = ("application/json", "application/*+json")
FORM = ("application/x-www-form-urlencoded",)


class JsonRoute(APIRoute):
    """A route that takes JSON only, if it takes a body at all, and counts a request before it parses the body.

    A browser asks first before it sends such a type to us from a foreign page; the framework would call a body of
    another type no valid dictionary, and would parse it before it asks who sent it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request, after a look at who sent it and at its type."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            await run_in_threadpool(access.caller, request, None)
            await require(request, JSON)
            return await handle(request)

        return checked


async def require(request: Request, taken: tuple[str, ...]) -> None:
    """Refuse a body whose type is not one of `taken`, in UTF-8.

    Raises:
        UnsupportedMediaTypeError: if it has another type, or none.
    """
    sent = request.headers.get("content-type")
    if (sent is not None and _fits(sent, taken)) or not await request.body():
        return
    response_headers(request.scope)[f"Accept-{request.method.title()}"] = ", ".join(taken)
    raise UnsupportedMediaTypeError(
        f"The Content-Type of the request must be {' or '.join(taken)}, in UTF-8, got {sent or 'none'}."
    )


def _fits(sent: str, taken: tuple[str, ...]) -> bool:
    message = Message()
    message["content-type"] = sent
    charset = message.get_param("charset", "utf-8")
    if not isinstance(charset, str) or charset.lower() not in {"utf-8", "utf8"}:
        return False
    kind, _, suffix = message.get_content_type().rpartition("+")
    return message.get_content_type() in taken or (
        kind.startswith("application/") and f"application/*+{suffix}" in taken
    )
