"""One trace from the request to every chunk and the assembly, received by a collector."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import create_engine, text

from momalisa.client import Client
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from tests.conftest import until
from tests.serving import serving

STOP = 60
"""Timeout for a worker to stop, on a slow machine, in seconds."""


@contextmanager
def collecting() -> Iterator[tuple[str, dict[str, list[Span]]]]:
    """Run a collector during the block; yields its URL, and the spans of each service as they arrive."""
    spans: dict[str, list[Span]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {item.key: item.value.string_value for item in resource.resource.attributes}
                assert about["deployment.environment.name"] == "test"
                assert about["service.version"] == "1.2.3"
                for scope in resource.scope_spans:
                    spans.setdefault(about["service.name"], []).extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, spans


def attributes(span: Span) -> dict[str, str | int]:
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[ExitStack, str, dict[str, list[Span]]]]:
    """A collector, which ends when its exit stack is closed; its URL; and the spans of each service."""
    with ExitStack() as stack:
        yield stack, *stack.enter_context(collecting())


@pytest.fixture(scope="module")
def traced(
    collector: tuple[ExitStack, str, dict[str, list[Span]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """A system that sends its spans there a tenth of a second after they end."""
    _, url, _ = collector
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "MOMALISA_VERSION": "1.2.3",
        "BATCH_SIZE": "4",
        "GOOGLE_CLOUD_PROJECT": "gallery-7",
    }
    folder = tmp_path_factory.mktemp("traced")
    with stack.started(LocalStack(folder, port=free_port(), workers=1, variables=variables)) as system:
        yield system


def chunks_of(system: LocalStack, walk_id: str) -> int:
    """Return how many chunks a walk had, the assembly among them."""
    engine = create_engine(system.variables["DATABASE_URL"])
    try:
        with engine.connect() as connection:
            query = text("SELECT count(*) FROM chunks WHERE walk_id = :walk")
            return int(connection.execute(query, {"walk": walk_id}).scalar_one())
    finally:
        engine.dispose()


def test_one_trace_contains_the_request_every_chunk_and_the_assembly(
    collector: tuple[ExitStack, str, dict[str, list[Span]]], traced: LocalStack
) -> None:
    _, _, spans = collector
    with Client(traced.url) as client:
        made = client.submit(["a giraffe", "a battleship"], frames=16, seed=7, steps=1)
        *_, walk = client.watch(made)
    assert walk["status"] == "succeeded"
    count = chunks_of(traced, walk["id"])
    until(lambda: len(spans.get("momalisa-render", [])) + len(spans.get("momalisa-assemble", [])) == count)
    until(lambda: any(span.name == "POST /v1/walks" for span in spans.get("momalisa-api", [])))
    [request] = [span for span in spans["momalisa-api"] if span.name == "POST /v1/walks"]
    assert request.kind == Span.SPAN_KIND_SERVER
    assert not request.parent_span_id
    assert attributes(request)["http.response.status_code"] == 202
    chunks = sorted(spans["momalisa-render"], key=lambda span: attributes(span)["momalisa.chunk"])
    assert [attributes(span)["momalisa.chunk"] for span in chunks] == list(range(len(chunks)))
    assert len(chunks) >= 4  # in several passes, of which the later ones were planned by a worker
    [assembly] = spans["momalisa-assemble"]
    for span in (*chunks, assembly):
        assert attributes(span)["momalisa.walk"] == walk["id"]
        assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)
    polls = [span for span in spans["momalisa-api"] if span.name.startswith("GET /v1/walks/{walk_id}")]
    assert polls
    assert not {span.trace_id for span in polls} & {request.trace_id}


def test_every_line_of_every_part_is_what_google_reads_and_names_its_span(
    collector: tuple[ExitStack, str, dict[str, list[Span]]], traced: LocalStack
) -> None:
    _, _, spans = collector
    with Client(traced.url) as client:
        *_, walk = client.watch(client.submit(["a giraffe", "a battleship"], frames=4, seed=7, steps=1))
    lines: dict[str, list[dict[str, Any]]] = {}
    for part in ("api", "render-1", "assemble-1", "reconciler"):
        log = traced.children[part].log.read_text()
        # Before, Celery may have warned of root.
        lines[part] = [json.loads(line) for line in log[log.index("{") :].splitlines()]
        for line in lines[part]:
            assert {"severity", "message", "time", "logger"} <= line.keys(), line
            assert line["severity"] in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
            assert datetime.fromisoformat(line["time"]).tzinfo
    service = {"render-1": "momalisa-render", "assemble-1": "momalisa-assemble"}
    for part, name in service.items():
        done = [line for line in lines[part] if line.get("walk") == walk["id"]]
        assert done
        until(lambda name=name: [span for span in spans[name] if attributes(span)["momalisa.walk"] == walk["id"]])  # type: ignore[misc]
        ids = {
            (f"projects/gallery-7/traces/{span.trace_id.hex()}", span.span_id.hex())
            for span in spans[name]
            if attributes(span)["momalisa.walk"] == walk["id"]
        }
        about = "logging.googleapis.com/"
        assert {(line[f"{about}trace"], line[f"{about}spanId"]) for line in done} == ids
        assert all(line[f"{about}trace_sampled"] is True for line in done)
    submitted = [
        line for line in lines["api"] if line["message"] == "walk queued" and line.get("walk") == walk["id"]
    ]
    [request] = {line["logging.googleapis.com/trace"] for line in submitted}
    assert request in {line.get("logging.googleapis.com/trace") for line in lines["render-1"]}


def test_without_an_endpoint_tracing_is_off_and_not_imported() -> None:
    code = (
        "import sys, worker.tasks, api.app; from momalisa.telemetry import tracing; tracing.start('api')\n"
        "with tracing.span('x'): sys.exit(bool(tracing.here()) or 'opentelemetry.sdk.trace' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unreachable_collector_delays_nothing(
    collector: tuple[ExitStack, str, dict[str, list[Span]]], traced: LocalStack
) -> None:
    stack, _, spans = collector
    stack.close()
    before = {service: len(received) for service, received in spans.items()}
    with Client(traced.url) as client:
        *_, walk = client.watch(client.submit(["a giraffe", "a battleship"], frames=4, seed=7, steps=1))
    assert walk["status"] == "succeeded"
    assert {service: len(received) for service, received in spans.items()} == before
    traced.children["render-1"].signal_stop()
    assert traced.children["render-1"].process
    assert traced.children["render-1"].process.wait(STOP) == 0
