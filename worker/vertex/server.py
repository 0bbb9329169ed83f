"""`python -m worker.vertex.server`: the renderer as a container of Vertex AI, without a database or a broker.

It listens on `AIP_HTTP_PORT` from its start, as Vertex AI requires, responds with 200 on `AIP_HEALTH_ROUTE` once
its model is loaded and warmed up, and renders requests on `AIP_PREDICT_ROUTE` (the protocol is in `client.py`).
"""

import base64
import json
import select
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

import structlog
from pydantic import ValidationError

from momalisa.errors import KeysLostError, ObjectConflictError
from momalisa.queue.results import FlaggedFrame, UploadedFrame
from momalisa.settings import settings
from momalisa.telemetry import logging
from worker.cancellation import CancellationToken
from worker.process.shutdown import STOP_SECONDS, Shutdown, ShutdownRequested
from worker.process.startup import explain
from worker.rendering.batch import Batch, RenderRequest, render_batch
from worker.rendering.loaded import renderer
from worker.vertex.client import Prediction, PredictRequest, PredictResponse

logger = logging.logger(__name__)

MAX_BODY_BYTES = 1_500_000
"""The limit of a shared endpoint of Vertex AI."""

SLOTS = 2
"""Requests accepted concurrently: one is rendered while the next waits. Others get 503 and Retry-After."""

RETRY_AFTER_SECONDS = 2

MAX_FAILURES = 2
"""After this many failures in a row the process may be at fault (a CUDA error, no memory left), so it ends."""


class Abandoned(Exception):  # noqa: N818
    """The client no longer waits for the response."""


class RequestSlot(CancellationToken):
    """One of the SLOTS: the right to render a request while its client waits and this process runs."""

    def __init__(self, shutdown: Shutdown, connection: socket.socket, seconds: float) -> None:
        self._shutdown = shutdown
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def raise_if_cancelled(self) -> None:
        """Raise if the request should no longer be rendered.

        Raises:
            ShutdownRequested: if this process was asked to stop.
            Abandoned: if the client closed the connection, or its time is up.
        """
        if self._shutdown.requested():
            raise ShutdownRequested
        if time.monotonic() > self._deadline or self._disconnected():
            raise Abandoned

    def verify(self) -> None:
        """Refuse to replace an object: only the client knows whether the chunk is still leased to it.

        Raises:
            ObjectConflictError: always.
        """
        raise ObjectConflictError("Another object has the name of a frame.")

    def _disconnected(self) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and not self._connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


class Server(ThreadingHTTPServer):
    """Responds to each request in its own thread, and renders in a single one: the model is not thread-safe."""

    daemon_threads = True

    def __init__(self) -> None:
        self.stop_flag = Shutdown()
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="renderer")
        self.slots = threading.BoundedSemaphore(SLOTS)
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.failures = 0
        super().__init__(("0.0.0.0", settings().aip_http_port), Handler)  # noqa: S104 - called by the platform's proxy

    def accepts(self) -> bool:
        """Return whether the model is loaded and the server is not stopping."""
        return self.ready.is_set() and not self.stop_flag.requested()

    def render(self, request: RenderRequest, slot: RequestSlot) -> Batch:
        """Render a request in the executor's thread; if an object conflicts, upload nothing."""
        slot.checkpoint()
        try:
            return render_batch(renderer(), request, slot)
        except ObjectConflictError:
            return render_batch(renderer(), replace(request, to_upload=frozenset()), slot)


class Handler(BaseHTTPRequestHandler):
    """One connection of the platform's proxy."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60
    """Limit of each read from the connection, in seconds."""

    def do_GET(self) -> None:
        """Respond to a health check: 200 if requests are accepted, else 503."""
        if self.path != settings().aip_health_route:
            self._refuse(HTTPStatus.NOT_FOUND, f"No route {self.path}.")
        elif self.server.accepts():
            self._respond(HTTPStatus.OK, {"status": "ok"})
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The model is not loaded yet, or the server is stopping.")

    def do_POST(self) -> None:
        """Render a request."""
        if self.path != settings().aip_predict_route:
            self._refuse(HTTPStatus.NOT_FOUND, f"No route {self.path}.", close=True)
            return
        body = self._body()
        if body is None:
            return
        try:
            request = PredictRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self._refuse(HTTPStatus.BAD_REQUEST, f"{where or 'body'}: {first['msg']}.")
            return
        if request.parameters.model != settings().model_name:
            message = f"This endpoint serves the model {settings().model_name}, not {request.parameters.model}."
            self._refuse(HTTPStatus.BAD_REQUEST, message)
        elif not self.server.accepts() or not self.server.slots.acquire(blocking=False):
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, "All slots are taken, or the server is not ready; retry later."
            )
        else:
            try:
                self._handle(request)
            finally:
                self.server.slots.release()

    def _handle(self, predict: PredictRequest) -> None:
        parameters = predict.parameters
        request = RenderRequest(
            walk_id=parameters.walk_id,
            secret=parameters.secret,
            model=parameters.model,
            spec=parameters.spec,
            positions=tuple(instance.position for instance in predict.instances),
            to_upload=frozenset(instance.position for instance in predict.instances if instance.to_upload),
            batch_size=parameters.batch_size,
            interpolated=parameters.interpolated,
            keys=parameters.keys,
        )
        slot = RequestSlot(self.server.stop_flag, self.connection, parameters.seconds)
        with structlog.contextvars.bound_contextvars(walk=str(request.walk_id)):
            logger.info("request received", frames=len(request.positions), to_upload=len(request.to_upload))
            try:
                batch = self._render(request, slot)
            except Abandoned:
                logger.info("request abandoned")
                self.close_connection = True
            except ShutdownRequested:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The server is stopping; retry later.")
            except KeysLostError as error:
                logger.warning("keys lost", reason=str(error))
                self._respond(HTTPStatus.OK, nothing_rendered(request, error).model_dump(mode="json"))
            except Exception as error:  # noqa: BLE001 - any error is reported to the client
                self._failed(error)
            else:
                self.server.failures = 0
                self._respond(HTTPStatus.OK, response(request, batch).model_dump(mode="json"))

    def _render(self, request: RenderRequest, slot: RequestSlot) -> Batch:
        """Wait until a request is rendered; one that still waits for the executor is cancelled here."""
        rendering = self.server.executor.submit(self.server.render, request, slot)
        while not rendering.done():
            wait([rendering], timeout=0.2)
            try:
                slot.checkpoint()
            except (Abandoned, ShutdownRequested):
                if rendering.cancel():
                    raise
        return rendering.result()

    def _failed(self, error: Exception) -> None:
        logger.error("request failed", exc_info=error)
        self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        self.server.failures += 1
        if self.server.failures >= MAX_FAILURES:
            logger.critical("requests keep failing, ending this process")
            self.server.ended.set()

    def _body(self) -> bytes | None:
        """Return the body of the request, or None after refusing it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing.", close=True)
        elif int(length) > MAX_BODY_BYTES:
            message = f"The body is larger than the limit of {MAX_BODY_BYTES:,} bytes."
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, close=True)
        else:
            return self.rfile.read(int(length))
        return None

    def _refuse(self, status: HTTPStatus, message: str, *, close: bool = False) -> None:
        """Respond with an error in the format of Google's APIs."""
        if close:
            self.close_connection = True
        self._respond(status, {"error": {"code": status, "message": message, "status": status.name}})

    def _respond(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", str(RETRY_AFTER_SECONDS))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log a request to the structured log, except health checks."""
        if self.path != settings().aip_health_route:
            logger.info("request", line=format % args)


def response(request: RenderRequest, batch: Batch) -> PredictResponse:
    """Return the result of a request in the protocol of Vertex AI."""
    made = {frame.position: frame for frame in batch.made}

    def prediction(position: float, content_hash: str) -> Prediction:
        result = Prediction(
            content_hash=content_hash,
            warnings=batch.warnings,
            made_with=batch.made_with,
            batch_size=batch.batch_size,
            interpolated=batch.interpolated,
        )
        match made.get(position):
            case UploadedFrame(stored=stored, thumbnail=thumbnail) as frame:
                result.object = f"gs://{settings().bucket}/{stored.name}"
                result.bytes, result.crc32c = stored.bytes, stored.crc32c
                result.thumbnail = base64.b64encode(thumbnail).decode()
                result.latents, result.check = frame.latents, frame.check
            case FlaggedFrame(flag=flag):
                result.flagged = flag
            case None:
                result.conflict = position in request.to_upload
        return result

    return PredictResponse(
        predictions=[prediction(*each) for each in zip(request.positions, batch.content_hashes, strict=True)]
    )


def nothing_rendered(request: RenderRequest, error: KeysLostError) -> PredictResponse:
    """Return the result of a request whose keys cannot be read, in the protocol of Vertex AI."""
    prediction = Prediction(
        content_hash="",
        warnings=[],
        made_with=renderer().made_with,
        batch_size=request.batch_size,
        lost_keys=tuple(sorted(error.positions)),
    )
    return PredictResponse(predictions=[prediction] * len(request.positions))


def main() -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code."""
    logging.configure()
    server = Server()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        server.stop_flag.request()
        server.ended.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
    loading = server.executor.submit(renderer)
    loading.add_done_callback(lambda _: server.ready.set() if loading.exception() is None else server.ended.set())
    while not server.ended.wait(timeout=1):
        pass  # a signal that the system hands to another thread does not wake this one, which runs its handler
    if loading.done() and (error := loading.exception()):
        logger.critical("model not loaded", reason=explain(error), exc_info=error)
    requested = server.stop_flag.requested()
    server.stop_flag.request()
    deadline = time.monotonic() + STOP_SECONDS
    for _ in range(SLOTS):  # each is released once its response is sent
        server.slots.acquire(timeout=max(deadline - time.monotonic(), 0))
    server.shutdown()
    logger.info("server stopped")
    return 0 if requested else 1


if __name__ == "__main__":
    sys.exit(main())
