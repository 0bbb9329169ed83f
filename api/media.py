"""Media types of request bodies."""

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
    """A route that accepts only JSON bodies, and counts each request before it parses the body.

    Browsers send JSON from other sites only after a CORS preflight. FastAPI itself would parse the body before it
    identifies the caller, and would report a body of another type as an invalid dictionary.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which first counts the request and checks its media type."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            await run_in_threadpool(access.caller, request, None)
            await require(request, JSON)
            return await handle(request)

        return checked


async def require(request: Request, accepted: tuple[str, ...]) -> None:
    """Refuse a body unless its media type is one of `accepted`, in UTF-8.

    Raises:
        UnsupportedMediaTypeError: if it has another type, or none.
    """
    sent = request.headers.get("content-type")
    if (sent is not None and _is_accepted(sent, accepted)) or not await request.body():
        return
    response_headers(request.scope)[f"Accept-{request.method.title()}"] = ", ".join(accepted)
    raise UnsupportedMediaTypeError(
        f"The Content-Type of the request must be {' or '.join(accepted)}, in UTF-8, got {sent or 'none'}."
    )


def _is_accepted(sent: str, accepted: tuple[str, ...]) -> bool:
    message = Message()
    message["content-type"] = sent
    charset = message.get_param("charset", "utf-8")
    if not isinstance(charset, str) or charset.lower() not in {"utf-8", "utf8"}:
        return False
    kind, _, suffix = message.get_content_type().rpartition("+")
    return message.get_content_type() in accepted or (
        kind.startswith("application/") and f"application/*+{suffix}" in accepted
    )
