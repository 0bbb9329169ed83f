"""The files of walks, from a bucket that browsers cannot reach, if BUCKET_PUBLIC_URL is `/files`."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import quote

import httpx
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from momalisa.errors import StoreUnavailableError
from momalisa.settings import settings
from momalisa.storage import bucket

router = APIRouter(include_in_schema=False)

NAME = re.compile(r"walks(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
"""Name of an object of a walk, without parts such as `..`."""

FORWARDED = ("Range", "If-Range", "If-None-Match", "If-Modified-Since")
"""Request headers that are sent to the bucket."""

RETURNED = (
    *("Content-Type", "Content-Length", "Content-Range", "Content-Disposition", "Accept-Ranges"),
    *("Cache-Control", "ETag", "Last-Modified"),
)
"""Headers of its response that are sent to the browser; without CORS headers."""

PASSED_THROUGH = {
    HTTPStatus.OK,
    HTTPStatus.PARTIAL_CONTENT,
    HTTPStatus.NOT_MODIFIED,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep connections to the bucket while the app runs."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as app.state.bucket:
        yield


@router.get("/files/{bucket_name}/{name:path}")
async def read_file(bucket_name: str, name: str, request: Request) -> StreamingResponse:
    """Stream a file from the bucket, or the requested range."""
    endpoint = settings().bucket_endpoint
    here = bucket.base_url() == "/files" and bucket_name == settings().bucket and NAME.fullmatch(name)
    if endpoint is None or not here:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    forwarded = {key: request.headers[key] for key in FORWARDED if key in request.headers}
    client: httpx.AsyncClient = request.app.state.bucket
    url = f"{endpoint.rstrip('/')}/download/storage/v1/b/{bucket_name}/o/{quote(name, safe='')}?alt=media"
    get = client.build_request("GET", url, headers={**forwarded, "Accept-Encoding": "identity"})
    try:
        found = await client.send(get, stream=True)
    except httpx.TransportError as error:
        raise StoreUnavailableError("The bucket is unavailable; try again later.") from error
    if found.status_code not in PASSED_THROUGH:
        await found.aclose()
        if found.status_code == HTTPStatus.NOT_FOUND:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        raise StoreUnavailableError("The bucket is unavailable; try again later.")
    headers = {key: found.headers[key] for key in RETURNED if key in found.headers}
    headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return StreamingResponse(_body(found), found.status_code, headers)


async def _body(found: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in found.aiter_raw():
            yield part
    finally:
        await found.aclose()
