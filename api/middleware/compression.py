"""Compression of responses."""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

MIN_BYTES = 1000

SECRETS = frozenset({"/v1/webhook-secret"})
"""Paths that are never compressed: the length of a compressed response can reveal a secret in it (BREACH).

Pages contain no secrets: what identifies a visitor is only in a cookie.
"""


class Compression(GZipMiddleware):
    """Compresses responses of at least MIN_BYTES, except event streams, which it would delay, and secrets.

    It is inside of `methods.Methods`, so that HEAD has the same headers as GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, minimum_size=MIN_BYTES, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        secret = scope["type"] == "http" and scope["path"] in SECRETS
        await (self.app if secret else super().__call__)(scope, receive, send)
