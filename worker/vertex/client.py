"""The client of a Vertex AI endpoint: it sends render requests, and gets back frames as `gs://` names.

The container behind the endpoint is `worker/vertex/server.py`. They use Vertex AI's protocol for custom
containers: a request is `{"instances": […], "parameters": {…}}`, and a response is `{"predictions": […]}`, with one
for each instance. An instance is a frame, and the parameters are its walk. The pictures go into the bucket and not
into the response, which is limited to 1.5 MB.
Source: https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

import asyncio
import base64
import binascii
import contextlib
import threading
import time
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Any
from uuid import UUID

import google.auth
import google.auth.transport.requests
import httpx
from google.auth.exceptions import GoogleAuthError
from pydantic import BaseModel, Field, ValidationError

from momalisa import retry_after
from momalisa.db import session
from momalisa.domain.dense import Check
from momalisa.domain.pins import MadeWith
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.errors import KeysLostError, RendererBusyError, RendererError
from momalisa.queue.leases import Key
from momalisa.queue.results import FlaggedFrame, UploadedFrame
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry.logging import logger
from worker.cancellation import CancellationToken
from worker.rendering.batch import Batch, RenderRequest

log = logger(__name__)

BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
"""The quota is exhausted, or no replica is free or running: refused before any work was done."""

REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
"""The endpoint does not exist, or refuses our credentials; the walk is not at fault."""

BUSY_SECONDS, REFUSED_SECONDS = 5.0, 60.0
"""Time until the next request if the response has no Retry-After."""

MAX_RETRY_AFTER = 300.0
"""Maximum of Retry-After, in seconds."""

CONNECT_SECONDS = 5.0

_refresh = threading.Lock()


class Instance(BaseModel):
    """A frame to render."""

    position: float = Field(ge=0, le=1)
    to_upload: bool
    """False if the frame only completes the batch."""


class Parameters(BaseModel):
    """What the frames of a request have in common."""

    walk_id: UUID
    secret: str
    """Secret of the walk, a part of its object names."""
    model: str
    spec: WalkSpec
    batch_size: int = Field(ge=1, le=64)
    """Size to which the batch is padded."""
    interpolated: bool = False
    keys: tuple[Key, ...] = ()
    """As in a `RenderRequest`."""
    seconds: float = Field(gt=0)
    """How long the client waits for the response."""


class PredictRequest(BaseModel):
    """A render request in the protocol of Vertex AI."""

    instances: list[Instance] = Field(min_length=1)
    parameters: Parameters


class Prediction(BaseModel):
    """The result of an instance."""

    content_hash: str
    warnings: list[str]
    """About the walk, like the following three the same for all instances."""
    made_with: MadeWith
    batch_size: int
    interpolated: bool = False
    object: str | None = None
    """`gs://` name of the frame, if it was uploaded."""
    bytes: int = 0
    crc32c: str = ""
    thumbnail: str = ""
    """In base64."""
    latents: bool = False
    check: Check | None = None
    """As of an `UploadedFrame`."""
    flagged: Flag | None = None
    conflict: bool = False
    """Whether the frame was not uploaded because another object has the name of a frame of this request."""
    lost_keys: tuple[float, ...] = ()
    """Positions of keys that could not be read, so that nothing was rendered; the same for all instances."""


class PredictResponse(BaseModel):
    """The results of all instances, in their order."""

    predictions: list[Prediction]


def render_batch(request: RenderRequest, token: CancellationToken) -> Batch:
    """Render a request on the endpoint.

    The endpoint does not know leases, so it never replaces objects. If another object has the name of a frame, it
    reports a conflict; the client deletes that object after verifying its lease, and sends the request again.

    Raises:
        KeysLostError: if files of keys cannot be read.
        RendererBusyError: if the endpoint accepts no requests at present, or does not exist.
        RendererError: if it refuses this request, fails, does not respond in time or sends an invalid response.
        Exception: whatever `token` raises if the work is cancelled; the endpoint then stops at its next step.
    """
    predictions = _predict(request, token)
    if any(prediction.conflict for prediction in predictions):
        for position in request.to_upload:
            name = bucket.frame_name(request.walk_id, request.secret, position)
            bucket.delete_conflicting(name, check=token.checkpoint, confirm=token.verify)
        predictions = _predict(request, token)
    if request.to_upload:
        token.rendered, token.to_record = len(request.positions), len(request.to_upload)
    made = [
        _made(request, position, prediction)
        for position, prediction in zip(request.positions, predictions, strict=True)
        if position in request.to_upload
    ]
    hashes, first = tuple(prediction.content_hash for prediction in predictions), predictions[0]
    return Batch(hashes, made, first.warnings, first.made_with, first.batch_size, first.interpolated)


def _made(request: RenderRequest, position: float, prediction: Prediction) -> UploadedFrame | FlaggedFrame:
    if prediction.flagged is not None:
        return FlaggedFrame(position, prediction.flagged)
    name = bucket.frame_name(request.walk_id, request.secret, position)
    if prediction.object != f"gs://{settings().bucket}/{name}":
        raise RendererError(f"The endpoint put {name} at {prediction.object}, which is not in our bucket.")
    try:
        thumbnail = base64.b64decode(prediction.thumbnail, validate=True)
    except binascii.Error as error:
        raise RendererError(f"The endpoint's response is invalid: {error}.") from error
    return UploadedFrame(
        position,
        StoredObject(name, prediction.bytes, prediction.crc32c),
        thumbnail,
        prediction.content_hash,
        interpolated=prediction.interpolated,
        latents=prediction.latents,
        check=prediction.check,
    )


def _predict(request: RenderRequest, token: CancellationToken) -> list[Prediction]:
    session.refuse_open_transaction()
    seconds = settings().vertex_timeout_seconds
    body = PredictRequest(
        instances=[
            Instance(position=position, to_upload=position in request.to_upload) for position in request.positions
        ],
        parameters=Parameters(
            walk_id=request.walk_id,
            secret=request.secret,
            model=request.model,
            spec=request.spec,
            batch_size=request.batch_size,
            interpolated=request.interpolated,
            keys=request.keys,
            seconds=seconds,
        ),
    )
    url, started = predict_url(), time.monotonic()
    try:
        [headers] = token.run_concurrently(auth_headers, [url])
        reply = asyncio.run(_post(url, body.model_dump_json(), headers, token.checkpoint))
    except TimeoutError as error:
        raise RendererError(f"The endpoint did not respond within {seconds:g} s.") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise RendererBusyError(f"The endpoint is unreachable: {error}.", retry_after=BUSY_SECONDS) from error
    except httpx.TransportError as error:
        raise RendererError(f"The connection to the endpoint failed: {type(error).__name__} {error}.") from error
    except GoogleAuthError as error:
        raise RendererBusyError(
            f"No Google Cloud credentials are available: {error}.", retry_after=REFUSED_SECONDS
        ) from error
    if reply.status_code in BUSY | REFUSED:
        default = BUSY_SECONDS if reply.status_code in BUSY else REFUSED_SECONDS
        raise RendererBusyError(_reason(reply), retry_after=retry_delay(reply, default))
    if reply.status_code != HTTPStatus.OK:
        raise RendererError(_reason(reply))
    try:
        predictions = PredictResponse.model_validate_json(reply.content).predictions
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RendererError(f"The endpoint's response is invalid: {first['loc']}: {first['msg']}.") from error
    if len(predictions) != len(request.positions):
        raise RendererError(
            f"The endpoint sent {len(predictions)} predictions for {len(request.positions)} instances."
        )
    log.info("endpoint responded", seconds=round(time.monotonic() - started, 3), frames=len(request.to_upload))
    if lost := predictions[0].lost_keys:
        raise KeysLostError(lost)
    return predictions


async def _post(url: str, body: str, headers: dict[str, str], check: Callable[[], None]) -> httpx.Response:
    """Send a request and return the response, whatever its status; if `check` raises, the connection is closed.

    Raises:
        TimeoutError: if there is no response in time.
        httpx.TransportError: if the connection fails.
    """
    headers = {**headers, "Content-Type": "application/json"}
    async with httpx.AsyncClient(timeout=httpx.Timeout(None, connect=CONNECT_SECONDS)) as client:
        sending = asyncio.ensure_future(client.post(url, content=body, headers=headers))
        try:
            async with asyncio.timeout(settings().vertex_timeout_seconds):
                while not sending.done():
                    await asyncio.wait({sending}, timeout=0.2)
                    check()
            return sending.result()
        finally:
            sending.cancel()


def predict_url() -> str:
    """Return the URL for predictions: VERTEX_URL of a dedicated endpoint, or that of the endpoint's region."""
    endpoint = settings().vertex_endpoint
    assert endpoint
    region = endpoint.split("/")[3]
    base = settings().vertex_url or f"https://{region}-aiplatform.googleapis.com"
    return f"{base.rstrip('/')}/v1/{endpoint}:predict"


def auth_headers(url: str) -> dict[str, str]:
    """Return the authorization headers; none for plain HTTP, over which a token could be read.

    Raises:
        google.auth.exceptions.GoogleAuthError: if there are no credentials, or they cannot be refreshed.
    """
    if url.startswith("http://"):
        return {}
    with _refresh:
        credentials = default_credentials()
        if not credentials.valid:
            credentials.refresh(google.auth.transport.requests.Request())
    return {"Authorization": f"Bearer {credentials.token}"}


@cache
def default_credentials() -> Any:
    """Return the credentials of this machine: of its service account, by Workload Identity on GKE."""
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return credentials


def _reason(reply: httpx.Response) -> str:
    """Return the error of a response in one line."""
    text = reply.text
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = reply.json()["error"]["message"]
    return f"The endpoint answered {reply.status_code}: {' '.join(str(text).split())[:500]}"


def retry_delay(reply: httpx.Response, default: float) -> float:
    """Return the seconds after which to retry: Retry-After or `default`, within limits."""
    requested = retry_after.seconds(reply.headers.get("Retry-After", ""))
    return min(max(default if requested is None else requested, 1.0), MAX_RETRY_AFTER)
