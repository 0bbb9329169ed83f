"""Answers sent small."""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

SMALLEST_BYTES = 1000

SECRETS = frozenset({"/v1/webhook-secret"})
"""Never compressed: the length of a compressed answer tells a listener how much of it is like what he had a victim
ask for (BREACH). Pages hold no such secret: what a visitor is known by is in a cookie only."""


class Compression(GZipMiddleware):
    """Compresses texts of a size worth it; never a stream of events, which would be held back, nor a secret.

    Inside of `methods.Methods`, so that HEAD has the same headers as GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, minimum_size=SMALLEST_BYTES, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        small = scope["type"] == "http" and scope["path"] in SECRETS
        await (self.app if small else super().__call__)(scope, receive, send)
