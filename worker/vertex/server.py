"""`python -m worker.vertex.server`: the renderer as a container of Vertex AI, which has no database and no broker.

It listens on `AIP_HTTP_PORT` from its start on, as Vertex AI wants, answers on `AIP_HEALTH_ROUTE` with 200 once its
model is loaded and warm, and makes what is ordered on `AIP_PREDICT_ROUTE` (`vertex` says in which words).
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

from momalisa.errors import ObjectInTheWayError
from momalisa.queue.results import FlaggedFrame, MadeFrame
from momalisa.settings import settings
from momalisa.telemetry import logging
from worker.cancellation import CancellationToken
from worker.process.shutdown import STOP_SECONDS, Shutdown, ShutdownRequested
from worker.process.startup import explain
from worker.rendering import batch
from worker.rendering.batch import Batch, RenderRequest
from worker.rendering.loaded import renderer
from worker.vertex.client import Answer, Prediction, Request

logger = logging.logger(__name__)

LARGEST_BODY = 1_500_000
"""Bytes: what a shared endpoint of Vertex AI passes on."""

SLOTS = 2
"""Orders taken at once: one is made while the next waits. Others are told to come again, here or elsewhere."""

COME_AGAIN_SECONDS = 2

FAILURES = 2
"""After as many failures in a row the fault may well be the process's own (a CUDA error, no memory left)."""


class Abandoned(Exception):  # noqa: N818
    """Nobody waits for the answer any more."""


class RequestSlot(CancellationToken):
    """The right to make an order, as long as its caller waits and this process goes on."""

    def __init__(self, shutdown: Shutdown, connection: socket.socket, seconds: float) -> None:
        self._shutdown = shutdown
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def raise_if_cancelled(self) -> None:
        """Raise if the order should not be made any more.

        Raises:
            ShutdownRequested: if this process was asked to stop.
            Abandoned: if the caller hung up, or will have by now.
        """
        if self._shutdown.requested():
            raise ShutdownRequested
        if time.monotonic() > self._deadline or self._hung_up():
            raise Abandoned

    def verify(self) -> None:
        """Refuse to replace an object: only the caller can know whether the chunk is still his.

        Raises:
            ObjectInTheWayError: always.
        """
        raise ObjectInTheWayError("Another object has the name of a frame.")

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and not self._connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


class Server(ThreadingHTTPServer):
    """Answers each request in a thread of its own, and makes all orders in one: a model is no two threads' work."""

    daemon_threads = True

    def __init__(self) -> None:
        self.stop_flag = Shutdown()
        self.painter = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self.places = threading.BoundedSemaphore(SLOTS)
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.failures = 0
        super().__init__(("0.0.0.0", settings().aip_http_port), Handler)  # noqa: S104 - the platform's proxy calls

    def accepts(self) -> bool:
        """Return whether the model is loaded and the server is not stopping."""
        return self.ready.is_set() and not self.stop_flag.requested()

    def make(self, order: RenderRequest, place: RequestSlot) -> Batch:
        """Make an order in the painter's thread; what cannot be replaced is left out of the batch."""
        place.checkpoint()
        try:
            return batch.make(renderer(), order, place)
        except ObjectInTheWayError:
            return batch.make(renderer(), replace(order, wanted=frozenset()), place)


class Handler(BaseHTTPRequestHandler):
    """One connection of the platform's proxy."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60
    """Seconds to wait for a request, and for each of its parts."""

    def do_GET(self) -> None:
        """Tell whether orders can be made."""
        if self.path != settings().aip_health_route:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is nothing at {self.path}.")
        elif self.server.accepts():
            self._answer(HTTPStatus.OK, {"status": "ok"})
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The model is not loaded, or the server stops.")

    def do_POST(self) -> None:
        """Make an order."""
        if self.path != settings().aip_predict_route:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is nothing at {self.path}.", close=True)
            return
        body = self._body()
        if body is None:
            return
        try:
            request = Request.model_validate_json(body)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in wrong["loc"])
            self._refuse(HTTPStatus.BAD_REQUEST, f"{place or 'the body'}: {wrong['msg']}.")
            return
        if request.parameters.model != settings().model_name:
            message = f"This endpoint has the model {settings().model_name}, not {request.parameters.model}."
            self._refuse(HTTPStatus.BAD_REQUEST, message)
        elif not self.server.accepts() or not self.server.places.acquire(blocking=False):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "All places are taken; come again.")
        else:
            try:
                self._make(request)
            finally:
                self.server.places.release()

    def _make(self, request: Request) -> None:
        parameters = request.parameters
        order = RenderRequest(
            walk_id=parameters.walk_id,
            secret=parameters.secret,
            model=parameters.model,
            spec=parameters.spec,
            positions=tuple(instance.position for instance in request.instances),
            wanted=frozenset(instance.position for instance in request.instances if instance.wanted),
            batch_size=parameters.batch_size,
        )
        place = RequestSlot(self.server.stop_flag, self.connection, parameters.seconds)
        with structlog.contextvars.bound_contextvars(walk=str(order.walk_id)):
            logger.info("ordered", frames=len(order.positions), wanted=len(order.wanted))
            try:
                batch = self._made(order, place)
            except Abandoned:
                logger.info("abandoned")
                self.close_connection = True
            except ShutdownRequested:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The server stops; come again.")
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                self._failed(error)
            else:
                self.server.failures = 0
                self._answer(HTTPStatus.OK, answer(order, batch).model_dump(mode="json"))

    def _made(self, order: RenderRequest, place: RequestSlot) -> Batch:
        """Wait until an order is made; one whose turn has not come ends here when it should."""
        making = self.server.painter.submit(self.server.make, order, place)
        while not making.done():
            wait([making], timeout=0.2)
            try:
                place.checkpoint()
            except (Abandoned, ShutdownRequested):
                if making.cancel():
                    raise
        return making.result()

    def _failed(self, error: Exception) -> None:
        logger.error("failed", exc_info=error)
        self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        self.server.failures += 1
        if self.server.failures >= FAILURES:
            logger.critical("this process fails again and again, so it ends")
            self.server.ended.set()

    def _body(self) -> bytes | None:
        """Return the body of the request, or refuse it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "The length of the body is missing.", close=True)
        elif int(length) > LARGEST_BODY:
            message = f"A body has at most {LARGEST_BODY:,} bytes."
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, close=True)
        else:
            return self.rfile.read(int(length))
        return None

    def _refuse(self, status: HTTPStatus, message: str, *, close: bool = False) -> None:
        """Answer an error as Google's APIs do."""
        if close:
            self.close_connection = True
        self._answer(status, {"error": {"code": status, "message": message, "status": status.name}})

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", str(COME_AGAIN_SECONDS))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log a request as everything else is logged, but for those of health."""
        if self.path != settings().aip_health_route:
            logger.info("request", line=format % args)


def answer(order: RenderRequest, batch: Batch) -> Answer:
    """Return what came of an order, in the words of the protocol."""
    made = {frame.position: frame for frame in batch.made}

    def prediction(position: float, content_hash: str) -> Prediction:
        told = Prediction(content_hash=content_hash, warnings=batch.warnings)
        match made.get(position):
            case MadeFrame(stored=stored, thumbnail=thumbnail):
                told.object = f"gs://{settings().bucket}/{stored.name}"
                told.bytes, told.crc32c = stored.bytes, stored.crc32c
                told.thumbnail = base64.b64encode(thumbnail).decode()
            case FlaggedFrame(flag=flag):
                told.flagged = flag
            case None:
                told.in_the_way = position in order.wanted
        return told

    return Answer(predictions=[prediction(*each) for each in zip(order.positions, batch.keys, strict=True)])


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
    loading = server.painter.submit(renderer)
    loading.add_done_callback(lambda _: server.ready.set() if loading.exception() is None else server.ended.set())
    server.ended.wait()
    if loading.done() and (error := loading.exception()):
        logger.critical("no renderer", reason=explain(error), exc_info=error)
    ordered = server.stop_flag.requested()
    server.stop_flag.request()
    deadline = time.monotonic() + STOP_SECONDS
    for _ in range(SLOTS):  # each is free again when its answer is on its way
        server.places.acquire(timeout=max(deadline - time.monotonic(), 0))
    server.shutdown()
    logger.info("server stopped")
    return 0 if ordered else 1


if __name__ == "__main__":
    sys.exit(main())
