"""`python -m api` serves the API and the website."""

import contextlib
import socket
import sys

import uvicorn

from api import server
from api.live import watchers
from momalisa.settings import settings

STARTUP_FAILED = 3
"""Exit code, the same as uvicorn's."""


class Server(uvicorn.Server):
    """A server that ends streams and long polls before it waits for open requests to finish."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams and long polls, then shut down."""
        watchers.end()
        await super().shutdown(sockets)


running = Server(
    uvicorn.Config(
        "api.app:app",
        host=settings().host,
        port=settings().port,
        http=server.Protocol,
        timeout_keep_alive=server.KEEP_ALIVE_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # TRUSTED_PROXIES applies instead (`addresses.client_address`)
        timeout_graceful_shutdown=10,
    )
)
with contextlib.suppress(KeyboardInterrupt):
    running.run()
if not running.started:
    sys.exit(STARTUP_FAILED)
