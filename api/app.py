"""The FastAPI application: `uvicorn api.app:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from api import site
from api.docs import openapi
from api.live import listener, watchers
from api.middleware import (
    body_limit,
    compression,
    etags,
    headers,
    methods,
    origin,
    request_id,
    security_headers,
    telemetry,
)
from api.problems import handlers
from api.routes import docs, embed, files, gallery, health, models, pages, problems, walk_files, walks, webhooks
from api.web import static
from momalisa import __version__
from momalisa.telemetry import logging

DESCRIPTION = """
Name two artworks in words, and MoMALisa walks from one to the other in the latent space of Stable Diffusion.

Submit a walk, poll it until it is `done`, and download its animation. Frames are available once they are rendered.
Errors are problem documents (RFC 9457, `application/problem+json`) that name the field and the limit.
"""

logging.configure()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serve telemetry, connect to the bucket and listen for changes while the app runs."""
    watchers.begin()
    async with telemetry.lifespan(health.not_ready), files.lifespan(app), listener.lifespan():
        yield


app = FastAPI(
    title="MoMALisa",
    version=__version__,
    description=DESCRIPTION,
    docs_url=None,  # `routes.docs` serves it
    redoc_url=None,
    generate_unique_id_function=lambda route: route.name,
    lifespan=lifespan,
    telemetry={"tracing": False, "metrics": False, "logs": False},  # `api.middleware.telemetry` does this
)
handlers.install(app)
app.add_middleware(handlers.UnexpectedErrors)
app.add_middleware(etags.EntityTags)
app.add_middleware(compression.Compression)
app.add_middleware(methods.Methods)
app.add_middleware(body_limit.BodyLimit)
app.add_middleware(site.NoForeignHost)
app.add_middleware(origin.OriginGuard)
app.add_middleware(headers.HeaderChecks)
app.add_middleware(handlers.RefusedRequests)
security_headers.install(app)
app.add_middleware(telemetry.Telemetry)
app.add_middleware(request_id.RequestId)
app.include_router(walks.router)
app.include_router(walk_files.router)
app.include_router(models.router)
app.include_router(webhooks.router)
app.include_router(health.router)
app.include_router(docs.router)
app.include_router(files.router)
app.include_router(problems.router)
app.include_router(pages.router)
app.include_router(embed.router)
app.include_router(gallery.router)
app.mount("/static", static.files(), name="static")


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    if app.openapi_schema is None:
        app.openapi_schema = openapi.document(app)
    return app.openapi_schema


app.openapi = openapi_document  # type: ignore[method-assign]
