"""`python -m api` serves the API and the website."""

import uvicorn

from api import server
from momalisa.settings import settings

uvicorn.run(
    "api.app:app",
    host=settings().host,
    port=settings().port,
    http=server.Protocol,
    timeout_keep_alive=server.KEEP_ALIVE_SECONDS,
    log_config=None,
    access_log=False,
    server_header=False,
    proxy_headers=False,  # whom to believe is for TRUSTED_PROXIES to say (`access.client_address`)
    timeout_graceful_shutdown=10,
)
