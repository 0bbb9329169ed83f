"""The files of walks, read out of a bucket that browsers do not reach: where BUCKET_PUBLIC_URL is `/files`."""

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
"""Of an object of a walk: no part of it leads anywhere else."""

ASKED = ("Range", "If-Range", "If-None-Match", "If-Modified-Since")
"""Headers of a request that the bucket sees."""

ANSWERED = (
    *("Content-Type", "Content-Length", "Content-Range", "Content-Disposition", "Accept-Ranges"),
    *("Cache-Control", "ETag", "Last-Modified"),
)
"""Headers of its answer that the browser sees; not those that let pages of other sites read it."""

PASSED_ON = {
    HTTPStatus.OK,
    HTTPStatus.PARTIAL_CONTENT,
    HTTPStatus.NOT_MODIFIED,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep connections to the bucket as long as the app lives."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as app.state.bucket:
        yield


@router.get("/files/{bucket_name}/{name:path}")
async def read_file(bucket_name: str, name: str, request: Request) -> StreamingResponse:
    """Pass a file on as it comes, or the part of it that is asked for."""
    endpoint = settings().bucket_endpoint
    here = bucket.base_url() == "/files" and bucket_name == settings().bucket and NAME.fullmatch(name)
    if endpoint is None or not here:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    asked = {key: request.headers[key] for key in ASKED if key in request.headers}
    client: httpx.AsyncClient = request.app.state.bucket
    url = f"{endpoint.rstrip('/')}/download/storage/v1/b/{bucket_name}/o/{quote(name, safe='')}?alt=media"
    order = client.build_request("GET", url, headers={**asked, "Accept-Encoding": "identity"})
    try:
        found = await client.send(order, stream=True)
    except httpx.TransportError as error:
        raise StoreUnavailableError("The files cannot be read just now; try again soon.") from error
    if found.status_code not in PASSED_ON:
        await found.aclose()
        if found.status_code == HTTPStatus.NOT_FOUND:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        raise StoreUnavailableError("The files cannot be read just now; try again soon.")
    headers = {key: found.headers[key] for key in ANSWERED if key in found.headers}
    headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return StreamingResponse(_body(found), found.status_code, headers)


async def _body(found: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in found.aiter_raw():
            yield part
    finally:
        await found.aclose()
