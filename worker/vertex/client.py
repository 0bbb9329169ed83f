"""Rendering by an endpoint of Vertex AI: orders go there, and frames come back as `gs://` names.

What stands behind the endpoint is `prediction`. They speak Vertex AI's protocol for custom
containers: `{"instances": […], "parameters": {…}}` asks, and `{"predictions": […]}` answers, a prediction for each
instance. Here an instance is a frame and the parameters are its walk. The pictures go into the bucket and not into
the answer, which may be 1.5 MB at most.
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
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.errors import RendererBusyError, RendererError
from momalisa.queue.results import FlaggedFrame, MadeFrame
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry.logging import logger
from worker.cancellation import CancellationToken
from worker.rendering.batch import Batch, RenderRequest

log = logger(__name__)

BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
"""A quota is used up, or no replica has room or is there: refused before any work was done."""

REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
"""The endpoint is not ours to call, or not there: nothing that a walk could help."""

BUSY_SECONDS, REFUSED_SECONDS = 5.0, 60.0
"""After how long to ask again when the answer does not say so."""

LONGEST_WAIT = 300.0
"""Seconds that we wait at most, whatever the answer says."""

CONNECT_SECONDS = 5.0

_tokens = threading.Lock()


class Instance(BaseModel):
    """A frame to be made, or to keep others company in their batch."""

    position: float = Field(ge=0, le=1)
    wanted: bool


class Parameters(BaseModel):
    """What the frames of an order have in common."""

    walk_id: UUID
    secret: str | None = None
    """For the names of the objects; a worker of an older version has none."""
    model: str
    spec: WalkSpec
    batch_size: int | None = Field(None, ge=1, le=64)
    """Frames that are rendered at once; a worker of an older version does not say."""
    seconds: float = Field(gt=0)
    """How long the caller waits; nobody wants the answer after that."""


class Request(BaseModel):
    """An order on its way to the endpoint."""

    instances: list[Instance] = Field(min_length=1)
    parameters: Parameters


class Prediction(BaseModel):
    """What came of an instance."""

    content_hash: str
    warnings: list[str]
    """About the walk, so the same for all instances."""
    object: str | None = None
    """Its `gs://` name, if it was wanted and may be shown."""
    bytes: int = 0
    crc32c: str = ""
    thumbnail: str = ""
    """In base64."""
    flagged: Flag | None = None
    in_the_way: bool = False
    """It was wanted and is not there, because another object has the name of a frame of this order."""


class Answer(BaseModel):
    """What came of an order."""

    predictions: list[Prediction]


def make(order: RenderRequest, token: CancellationToken) -> Batch:
    """Have the endpoint make an order.

    The endpoint knows nothing of leases. So it replaces no object: if there is one in the way, damaged or made
    otherwise, it says so, and we remove it when we have made sure that the chunk is ours.

    Raises:
        RendererBusyError: if the endpoint takes no orders just now, or is not there.
        RendererError: if it refuses this order, fails at it, does not answer in time or makes no sense.
        whatever `token` raises when the work should end; the endpoint then ends at its next step.
    """
    predictions = _ask(order, token)
    if any(prediction.in_the_way for prediction in predictions):
        for position in order.wanted:
            name = bucket.frame_name(order.walk_id, order.secret, position)
            bucket.delete_conflicting(name, check=token.checkpoint, confirm=token.verify)
        predictions = _ask(order, token)
    if order.wanted:
        token.rendered, token.to_record = len(order.positions), len(order.wanted)
    made = [
        _made(order, position, prediction)
        for position, prediction in zip(order.positions, predictions, strict=True)
        if position in order.wanted
    ]
    return Batch(tuple(prediction.content_hash for prediction in predictions), made, predictions[0].warnings)


def _made(order: RenderRequest, position: float, prediction: Prediction) -> MadeFrame | FlaggedFrame:
    if prediction.flagged is not None:
        return FlaggedFrame(position, prediction.flagged)
    name = bucket.frame_name(order.walk_id, order.secret, position)
    if prediction.object != f"gs://{settings().bucket}/{name}":
        raise RendererError(f"The endpoint put {name} at {prediction.object}, which is not where we look.")
    try:
        looks = base64.b64decode(prediction.thumbnail, validate=True)
    except binascii.Error as error:
        raise RendererError(f"The endpoint's answer makes no sense: {error}.") from error
    return MadeFrame(
        position, StoredObject(name, prediction.bytes, prediction.crc32c), looks, prediction.content_hash
    )


def _ask(order: RenderRequest, token: CancellationToken) -> list[Prediction]:
    session.refuse_open_transaction()
    seconds = settings().vertex_timeout_seconds
    request = Request(
        instances=[Instance(position=position, wanted=position in order.wanted) for position in order.positions],
        parameters=Parameters(
            walk_id=order.walk_id,
            secret=order.secret,
            model=order.model,
            spec=order.spec,
            batch_size=order.batch_size,
            seconds=seconds,
        ),
    )
    url, started = _url(), time.monotonic()
    try:
        [headers] = token.run_concurrently(_headers, [url])
        reply = asyncio.run(_post(url, request.model_dump_json(), headers, token.checkpoint))
    except TimeoutError as error:
        raise RendererError(f"The endpoint did not answer within {seconds:g} s.") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise RendererBusyError(f"The endpoint cannot be reached: {error}.", retry_after=BUSY_SECONDS) from error
    except httpx.TransportError as error:
        raise RendererError(f"The endpoint broke off: {type(error).__name__} {error}.") from error
    except GoogleAuthError as error:
        raise RendererBusyError(f"There are no credentials: {error}.", retry_after=REFUSED_SECONDS) from error
    if reply.status_code in BUSY | REFUSED:
        default = BUSY_SECONDS if reply.status_code in BUSY else REFUSED_SECONDS
        raise RendererBusyError(_reason(reply), retry_after=_retry_after(reply, default))
    if reply.status_code != HTTPStatus.OK:
        raise RendererError(_reason(reply))
    try:
        predictions = Answer.model_validate_json(reply.content).predictions
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RendererError(f"The endpoint's answer makes no sense: {first['loc']}: {first['msg']}.") from error
    if len(predictions) != len(order.positions):
        raise RendererError(f"The endpoint answered {len(order.positions)} instances by {len(predictions)}.")
    log.info("endpoint answered", seconds=round(time.monotonic() - started, 3), wanted=len(order.wanted))
    return predictions


async def _post(url: str, body: str, headers: dict[str, str], check: Callable[[], None]) -> httpx.Response:
    """Send a request and return its answer, whatever it is; the connection is closed as soon as `check` raises.

    Raises:
        TimeoutError: if there is none in time.
        httpx.TransportError: if the connection cannot be made, or breaks.
    """
    headers = {**headers, "Content-Type": "application/json"}
    async with httpx.AsyncClient(timeout=httpx.Timeout(None, connect=CONNECT_SECONDS)) as client:
        asking = asyncio.ensure_future(client.post(url, content=body, headers=headers))
        try:
            async with asyncio.timeout(settings().vertex_timeout_seconds):
                while not asking.done():
                    await asyncio.wait({asking}, timeout=0.2)
                    check()
            return asking.result()
        finally:
            asking.cancel()


def _url() -> str:
    """Return where predictions are had: from the endpoint's own name, or its region's."""
    endpoint = settings().vertex_endpoint
    assert endpoint
    region = endpoint.split("/")[3]
    base = settings().vertex_url or f"https://{region}-aiplatform.googleapis.com"
    return f"{base.rstrip('/')}/v1/{endpoint}:predict"


def _headers(url: str) -> dict[str, str]:
    """Return what proves who we are; no token goes over a connection that others can read, as to a stand-in.

    Raises:
        google.auth.exceptions.GoogleAuthError: if we have no credentials, or they cannot be refreshed.
    """
    if url.startswith("http://"):
        return {}
    with _tokens:
        credentials = _credentials()
        if not credentials.valid:
            credentials.refresh(google.auth.transport.requests.Request())
    return {"Authorization": f"Bearer {credentials.token}"}


@cache
def _credentials() -> Any:
    """Return the credentials of this machine: of its service account, by Workload Identity on GKE."""
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return credentials


def _reason(reply: httpx.Response) -> str:
    """Return what an endpoint says about an error, in one line."""
    text = reply.text
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = reply.json()["error"]["message"]
    return f"The endpoint answered {reply.status_code}: {' '.join(str(text).split())[:500]}"


def _retry_after(reply: httpx.Response, default: float) -> float:
    """Return after how many seconds to ask again."""
    asked = retry_after.seconds(reply.headers.get("Retry-After", ""))
    return min(max(default if asked is None else asked, 1.0), LONGEST_WAIT)
