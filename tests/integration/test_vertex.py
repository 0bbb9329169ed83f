"""Rendering by a Vertex AI endpoint: with the container's own server, and with endpoints that fail."""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from sqlalchemy import create_engine, func, select, text

from momalisa.client import Client, Walk
from momalisa.db.models import Chunk, Frame
from momalisa.db.session import transaction
from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.local import stack
from momalisa.local.processes import Child, free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, settings
from momalisa.storage import bucket
from momalisa.walks import service
from tests.conftest import clear_caches, until, wait_for_workers
from tests.serving import serving
from worker import render_task, runner
from worker.process.worker import Worker

ENDPOINT = "projects/p/locations/us-central1/endpoints/7"
ROUTE = f"/v1/{ENDPOINT}:predict"
"""The prediction route, as the platform's proxy calls it."""

LONG = "so " * 300 + "old a tower"
"""A prompt longer than the model's limit, for which it warns."""


def command() -> list[str]:
    """Return the command of the image, with this Python."""
    lines = (ROOT / "infra" / "vertex" / "Dockerfile").read_text().splitlines()
    [given] = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    assert given[0] == "python"
    return [sys.executable, *given[1:]]


class Container:
    """The server of the image as a process, with the variables that Vertex AI sets; no database, no broker."""

    def __init__(self, log: Path, port: int, **variables: str) -> None:
        given = {"AIP_HTTP_PORT": str(port), "AIP_HEALTH_ROUTE": "/ready", "AIP_PREDICT_ROUTE": ROUTE}
        nowhere = {
            "DATABASE_URL": "postgresql+psycopg://unknown@nowhere.invalid/",
            "BROKER_URL": "redis://nowhere.invalid",
        }
        self.child = Child("vertex", command(), log, {**given, **nowhere, "NO_PROXY": "*", **variables})
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)

    def start(self) -> None:
        self.child.start()
        until(lambda: self.health() == 200, 120)

    def health(self) -> int | None:
        assert self.child.ended() is None, self.child.last_lines()
        try:
            return self.http.get("/ready").status_code
        except httpx.ConnectError:
            return None

    def stop(self) -> int | None:
        self.http.close()
        self.child.signal_stop()
        self.child.wait_stopped(time.monotonic() + 15)
        return self.child.ended()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.child.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == name]


# Whole walks.


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalStack, Container]]:
    """A system whose render worker has no model, and the container that it sends its chunks to."""
    port = free_port()
    rendering = {"RENDERER": "vertex", "VERTEX_ENDPOINT": ENDPOINT, "VERTEX_URL": f"http://127.0.0.1:{port}"}
    folder = tmp_path_factory.mktemp("vertex")
    variables = {"BATCH_SIZE": "4", **rendering}
    with stack.started(LocalStack(folder, port=free_port(), workers=1, variables=variables)) as system:
        bucket, threads = system.variables["BUCKET_ENDPOINT"], system.children["render-1"].variables["THREADS"]
        container = Container(
            folder / "logs" / "vertex.log", port, BUCKET_ENDPOINT=bucket, THREADS=threads, BATCH_SIZE="4"
        )
        try:
            container.start()
            wait_for_workers(system)
            yield system, container
        finally:
            container.stop()


def rows(system: LocalStack, walk: Walk) -> list[tuple[Any, ...]]:
    """Return everything recorded about the frames of a walk, except the walk and the times."""
    engine = create_engine(system.variables["DATABASE_URL"])
    try:
        with engine.connect() as connection:
            found = connection.execute(
                text(
                    "SELECT position, chunk, replace(object, walk_id || '/' || secret, ''), bytes, crc32c, flagged,"
                    " thumbnail, content_hash FROM frames JOIN walks ON walks.id = walk_id WHERE walk_id = :walk"
                    " ORDER BY position"
                ),
                {"walk": walk["id"]},
            )
            return [tuple(row) for row in found]
    finally:
        engine.dispose()


def finished(client: Client, prompts: list[str] | None, **options: Any) -> Walk:
    *_, walk = client.walk(prompts, **options)
    assert walk["status"] == "succeeded"
    return walk


def test_a_walk_rendered_by_an_endpoint_is_the_walk_that_a_worker_renders(
    fleet: tuple[LocalStack, Container],
) -> None:
    """Byte by byte: pictures, names, captions, checksums, thumbnails, hashes, warnings, and so the artifacts."""
    system, container = fleet
    order: dict[str, Any] = {"frames": 12, "seed": 7, "steps": 3, "pacing": "even"}
    worker = system.children["render-1"]
    with Client(system.url) as client:
        there = finished(client, [LONG, "a battleship"], **order)
        assert len(container.events("batch rendered")) == 3
        assert not has_torch(worker)
        worker.signal_stop()
        worker.wait_stopped(time.monotonic() + 15)
        worker.variables["RENDERER"] = "local"
        worker.log.unlink()
        worker.start()
        wait_for_workers(system)
        assert has_torch(worker)  # so that the same check would have found it above
        here = finished(client, [LONG, "a battleship"], **order)
        assert len(container.events("batch rendered")) == 3
        assert rows(system, there) == rows(system, here)
        assert there["warnings"] == here["warnings"] != []
        for one, other in zip(there["frames"], here["frames"], strict=True):
            assert client.download(one["url"] or "") == client.download(other["url"] or "")
        assert {kind: made["bytes"] for kind, made in there["artifacts"].items()} == {
            kind: made["bytes"] for kind, made in here["artifacts"].items()
        }
        worker.signal_stop()
        worker.wait_stopped(time.monotonic() + 15)
        worker.variables["RENDERER"] = "vertex"
        worker.start()
        finer = finished(client, None, from_walk=here["id"], frames=16)
    assert {(row[0], *row[3:]) for row in rows(system, here)} <= {(row[0], *row[3:]) for row in rows(system, finer)}
    assert len(container.events("batch rendered")) == 4  # the 4 new frames; the others are copies


def has_torch(worker: Child) -> bool:
    """Return whether a worker or one of its children has loaded torch."""
    assert worker.process
    top = psutil.Process(worker.process.pid)
    maps = [Path(f"/proc/{process.pid}/maps").read_text() for process in (top, *top.children(recursive=True))]
    assert len(maps) > 1
    return any("torch" in each for each in maps)


def frame_name(request: dict[str, Any]) -> str:
    """Return the object name of the first frame of the walk that the endpoint has to render."""
    parameters = request["parameters"]
    return bucket.frame_name(UUID(parameters["walk_id"]), parameters["secret"], 0.0)


# The container alone.


@pytest.fixture(scope="module")
def _container(_services: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    bucket, log = _services.variables["BUCKET_ENDPOINT"], tmp_path_factory.mktemp("container") / "vertex.log"
    made = Container(log, free_port(), BUCKET_ENDPOINT=bucket, THREADS="1")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def container(services: LocalStack, _container: Container) -> Container:
    """The container, ready; its bucket is that of this process."""
    if _container.child.process is None or _container.child.ended() is not None:
        _container.start()
    return _container


def order(spec: WalkSpec, *positions: float, **parameters: Any) -> dict[str, Any]:
    usual = {
        "walk_id": str(uuid4()),
        "secret": "s",
        "batch_size": 8,
        "model": "momalisa-mini",
        "spec": spec.model_dump(mode="json"),
        "seconds": 60,
    }
    return {
        "instances": [{"position": position, "to_upload": True} for position in positions],
        "parameters": {**usual, **parameters},
    }


def test_the_container_reports_invalid_requests_and_keeps_working(
    container: Container, spec: Callable[..., WalkSpec]
) -> None:
    http, good = container.http, order(spec(), 0.0)
    assert http.get("/ready").json() == {"status": "ok"}
    assert http.get("/other").status_code == http.post("/other", json=good).status_code == 404

    def refused(**request: Any) -> tuple[int, str]:
        answer = http.post(ROUTE, **request)
        return answer.status_code, answer.json()["error"]["message"]

    assert refused(content=b"{")[0] == refused(json={})[0] == refused(json={**good, "instances": []})[0] == 400
    assert refused(json=order(spec(), 1.5)) == (
        400,
        "instances.0.position: Input should be less than or equal to 1.",
    )
    assert refused(json=order(spec(), 0.5, model="other")) == (
        400,
        "This endpoint serves the model momalisa-mini, not other.",
    )
    assert refused(content=iter([b"{}"]))[0] == 411  # chunked, without a length
    assert refused(content=b" " * 2_000_000)[0] == 413
    assert refused(json=order(spec(width=100), 0.5))[0] == 500  # errors of the model are reported to the caller
    [made] = http.post(ROUTE, json=good).raise_for_status().json()["predictions"]
    name = f"walks/{good['parameters']['walk_id']}/s/frames/0.000000000.png"
    assert made["object"] == f"gs://{settings().bucket}/{name}"
    assert len(bucket._bucket().blob(name).download_as_bytes()) == made["bytes"]


def test_a_disconnected_client_frees_its_slot(container: Container, spec: Callable[..., WalkSpec]) -> None:
    ordered, abandoned = len(container.events("request received")), len(container.events("request abandoned"))
    endless = json.dumps(order(spec(steps=100), *(step / 64 for step in range(64)))).encode()
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(endless)}\r\n\r\n".encode()
    address = (container.http.base_url.host, container.http.base_url.port or 0)
    callers = [socket.create_connection(address) for _ in range(2)]
    for caller in callers:
        caller.sendall(head + endless)
    until(lambda: len(container.events("request received")) == ordered + 2, 120)

    def ask() -> httpx.Response:
        return container.http.post(ROUTE, json=order(spec(), 0.0))

    assert (ask().status_code, ask().headers["Retry-After"]) == (503, "2")
    assert container.health() == 200  # a busy container is healthy
    for caller in callers:
        caller.close()
    until(lambda: ask().status_code == 200, 120)
    assert len(container.events("request abandoned")) == abandoned + 2


def test_a_container_without_its_model_exits_and_says_why(services: LocalStack, tmp_path: Path) -> None:
    container = Container(tmp_path / "vertex.log", free_port(), MODEL=str(tmp_path))
    container.child.start()
    until(lambda: container.child.ended() is not None, 120)
    assert container.child.ended() == 1
    assert "has no model_index.json" in container.events("model not loaded")[0]["reason"]
    container.http.close()


# Endpoints that fail.

Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers and body; None disconnects without a response."""


@contextmanager
def endpoint(answer: Callable[[BaseHTTPRequestHandler, dict[str, Any]], Answer]) -> Iterator[str]:
    """Run a stand-in for an endpoint, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == ROUTE
            said = answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if said is None:
                return
            status, headers, body = said
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def hung_up(handler: BaseHTTPRequestHandler) -> bool:
    """Return whether the client closes the connection."""
    handler.connection.settimeout(30)
    return not handler.connection.recv(1)


@pytest.fixture
def paused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds during which this worker would have claimed nothing."""
    seconds: list[float] = []
    monkeypatch.setattr(worker.shutdown, "wait", seconds.append)
    return seconds


@pytest.fixture
def rendered_by(
    services: LocalStack,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    spec: Callable[..., WalkSpec],
    paused: list[float],
) -> Callable[..., Chunk]:
    """Create a walk, render its chunk by an endpoint, in this process, and return the chunk afterwards."""

    def render(url: str, pins: Pins | None = None, **variables: str) -> Chunk:
        given = {"RENDERER": "vertex", "VERTEX_ENDPOINT": ENDPOINT, "VERTEX_URL": url, **variables}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        clear_caches()
        with transaction() as session:
            service.create(session, spec(frames=4, exact=False), public=True, owner="ann", pins=pins)
        runner.run(worker, ChunkKind.RENDER, render_task.render)
        return chunk()

    return render


def chunk() -> Chunk:
    with transaction() as session:
        return session.scalars(select(Chunk).order_by(Chunk.created_at, Chunk.number).limit(1)).one()


def google_error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message, "status": "X"}}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [(429, {"Retry-After": "17"}, 17), (429, {}, 5), (503, {"Retry-After": "2"}, 2), (503, {}, 5), (403, {}, 60)],
)
def test_a_busy_endpoint_costs_no_attempt_and_is_retried_after_retry_after(
    status: int, headers: dict[str, str], wait: int, rendered_by: Callable[..., Chunk], paused: list[float]
) -> None:
    with endpoint(lambda *_: (status, headers, google_error(status, "Quota exceeded"))) as url:
        left = rendered_by(url)
    assert (left.status, left.attempts, left.priority) == (ChunkStatus.QUEUED, 0, 0)
    with transaction() as session:
        ahead = session.execute(select(func.extract("epoch", Chunk.scheduled_at - Chunk.claimed_at))).scalar_one()
    assert wait <= ahead < wait + 30
    assert paused == [wait]


def test_a_missing_endpoint_costs_no_attempt(rendered_by: Callable[..., Chunk], paused: list[float]) -> None:
    left = rendered_by(f"http://127.0.0.1:{free_port()}")
    assert (left.status, left.attempts, paused) == (ChunkStatus.QUEUED, 0, [5])


MADE_WITH = {"revision": "r", "dtype": "float32", "device": "cpu"}
PREDICTION = {"content_hash": "k", "warnings": [], "made_with": MADE_WITH, "batch_size": 8}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((400, {}, google_error(400, "instances.0.position: no.")), "answered 400: instances.0.position: no."),
        (
            (500, {}, google_error(500, "OutOfMemoryError: CUDA\nis full")),
            "answered 500: OutOfMemoryError: CUDA is full",
        ),
        ((502, {}, b"<html>bad gateway</html>"), "answered 502: <html>bad gateway</html>"),
        ((200, {}, b"<html>welcome</html>"), "response is invalid"),
        ((200, {}, b'{"predictions": [{"content_hash": 1}]}'), "response is invalid"),
        ((200, {}, b'{"predictions": []}'), "sent 0 predictions for 4 instances"),
        (
            (200, {}, json.dumps({"predictions": [PREDICTION] * 4}).encode()),
            "not in our bucket",
        ),
        (None, "connection to the endpoint failed"),
    ],
)
def test_a_failing_endpoint_costs_an_attempt_and_its_reason_is_recorded(
    answer: Answer, reason: str, rendered_by: Callable[..., Chunk]
) -> None:
    with endpoint(lambda *_: answer) as url:
        left = rendered_by(url)
    assert (left.status, left.attempts) == (ChunkStatus.QUEUED, 1)
    assert reason in (left.error or "")


def test_an_endpoint_that_times_out_costs_an_attempt_and_is_disconnected(
    rendered_by: Callable[..., Chunk],
) -> None:
    seen: list[object] = []

    def hang(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        seen.extend([request["parameters"]["seconds"], hung_up(handler)])

    with endpoint(hang) as url:
        left = rendered_by(url, VERTEX_TIMEOUT_SECONDS="0.5")
    assert (left.status, left.attempts) == (ChunkStatus.QUEUED, 1)
    assert "did not respond within 0.5 s" in (left.error or "")
    assert seen == [0.5, True]


def test_a_stopping_worker_disconnects_and_releases_its_chunk(
    worker: Worker, rendered_by: Callable[..., Chunk]
) -> None:
    seen: list[bool] = []

    def hang(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        worker.shutdown.request()
        seen.append(hung_up(handler))

    with endpoint(hang) as url:
        left = rendered_by(url)
    assert (left.status, left.attempts, seen) == (ChunkStatus.QUEUED, 0, [True])


def test_heartbeats_continue_while_the_endpoint_renders_and_a_cancellation_disconnects(
    rendered_by: Callable[..., Chunk],
) -> None:
    seen: list[bool] = []

    def hang(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        first = chunk().lease_expires_at
        assert first
        until(lambda: (chunk().lease_expires_at or first) > first, 120)
        with transaction() as session:
            service.cancel(session, UUID(request["parameters"]["walk_id"]), owner="ann")
        seen.append(hung_up(handler))

    with endpoint(hang) as url:
        left = rendered_by(url, LEASE_SECONDS="1.5")
    assert (left.status, seen) == (ChunkStatus.DROPPED, [True])


def test_a_conflicting_object_is_replaced_by_the_holder_of_the_lease(
    container: Container, rendered_by: Callable[..., Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example a damaged frame, or one from a worker with other kernels that vanished."""
    asked: list[int] = []

    def damage(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> Answer:
        if not asked:
            name = frame_name(request)
            bucket._bucket().blob(name).upload_from_string(b"damaged")
        passed_on = container.http.post(ROUTE, json=request)
        asked.append(passed_on.status_code)
        return passed_on.status_code, {}, passed_on.content

    with endpoint(damage) as url:
        left = rendered_by(url)
    assert (left.status, asked) == (ChunkStatus.DONE, [200, 200])
    with transaction() as session:
        recorded = session.scalars(select(Frame)).all()
    for frame in recorded:
        assert frame.object
        blob = bucket._bucket().blob(frame.object)
        blob.reload()
        assert (blob.crc32c, blob.size) == (frame.crc32c, frame.bytes)


def test_keys_that_the_endpoint_cannot_read_are_rendered_again_first(
    container: Container, rendered_by: Callable[..., Chunk], worker: Worker
) -> None:
    between = Batch(size=2, positions=[0.25, 0.5], interpolated=True)
    lost: list[list[float]] = []

    def lose(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> Answer:
        if request["parameters"]["interpolated"] and len(lost) == 1:
            bucket.delete(request["parameters"]["keys"][1][1]["name"])
        passed_on = container.http.post(ROUTE, json=request)
        lost.append(passed_on.json()["predictions"][0]["lost_keys"])
        return passed_on.status_code, {}, passed_on.content

    with endpoint(lose) as url:
        rendered_by(url, Pins(batches=[Batch(size=2, positions=[0, 1]), between]))
        for _ in range(3):
            runner.run(worker, ChunkKind.RENDER, render_task.render)
    assert lost == [[], [1.0], [], []]
    with transaction() as session:
        chunks = session.scalars(select(Chunk).where(Chunk.kind == ChunkKind.RENDER).order_by(Chunk.number)).all()
        made = session.scalars(select(Frame.interpolated).order_by(Frame.position)).all()
    assert [(each.status, each.attempts) for each in chunks] == [(ChunkStatus.DONE, 2), (ChunkStatus.DONE, 1)]
    assert [len(each.failed_on) for each in chunks] == [0, 1]
    assert made == [False, True, True, False]


def test_a_conflicting_object_stays_if_the_lease_is_lost(rendered_by: Callable[..., Chunk]) -> None:
    names: list[str] = []

    def say(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> Answer:
        walk_id = UUID(request["parameters"]["walk_id"])
        names.append(frame_name(request))
        bucket._bucket().blob(names[0]).upload_from_string(b"the other worker's")
        with transaction() as session:
            service.cancel(session, walk_id, owner="ann")
        seen = {**PREDICTION, "conflict": True}
        return 200, {}, json.dumps({"predictions": [seen] * 4}).encode()

    with endpoint(say) as url:
        assert rendered_by(url).status == ChunkStatus.DROPPED
    assert len(names) == 1
    assert bucket._bucket().blob(names[0]).download_as_bytes() == b"the other worker's"


# Last, since any test after this that needs the container would start it again.


def test_a_stopping_container_refuses_its_requests_and_exits(
    container: Container, spec: Callable[..., WalkSpec]
) -> None:
    ordered = len(container.events("request received"))
    endless = order(spec(steps=100), *(step / 64 for step in range(64)))
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(container.http.post(ROUTE, json=endless)))
    caller.start()
    until(lambda: len(container.events("request received")) == ordered + 1, 120)
    container.child.signal_stop()
    caller.join()
    assert answers[0].status_code == 503
    container.child.wait_stopped(time.monotonic() + 15)
    assert container.child.ended() == 0
