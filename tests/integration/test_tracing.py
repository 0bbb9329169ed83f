"""One trace from the request to every chunk and the assembly, received as a collector receives it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from momalisa import local
from momalisa.client import Client
from momalisa.local import System
from momalisa.processes import free_port


@contextmanager
def collecting() -> Iterator[tuple[str, dict[str, list[Span]]]]:
    """Run a collector for the length of a block; gives its URL, and the spans of each service as they come."""
    spans: dict[str, list[Span]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {item.key: item.value.string_value for item in resource.resource.attributes}
                for scope in resource.scope_spans:
                    spans.setdefault(about["service.name"], []).extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Span) -> dict[str, str | int]:
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


def test_one_trace_holds_the_request_every_chunk_and_the_assembly(tmp_path: Path) -> None:
    with collecting() as (url, spans):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100", "BATCH_SIZE": "4"}
        with local.started(System(tmp_path, port=free_port(), workers=1, variables=variables)) as system:
            with Client(system.url) as client:
                made = client.submit(["a giraffe", "a battleship"], frames=16, seed=7, steps=1)
                *_, walk = client.watch(made)
            assert walk["status"] == "succeeded"
        # The parts have stopped, and have sent what was left.
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


def test_without_an_endpoint_nothing_is_traced_and_nothing_is_there_to_send_it() -> None:
    code = (
        "import sys, worker.tasks, api.app; from momalisa import tracing; tracing.start('api')\n"
        "with tracing.span('x'): sys.exit(bool(tracing.here()) or 'opentelemetry.sdk.trace' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_collector_that_is_not_there_holds_nobody_up(tmp_path: Path) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with local.started(System(tmp_path, port=free_port(), workers=1, variables=variables)) as system:
        with Client(system.url) as client:
            *_, walk = client.watch(client.submit(["a giraffe", "a battleship"], frames=4, seed=7, steps=1))
        assert walk["status"] == "succeeded"
        system.children["render-1"].signal_stop()
        assert system.children["render-1"].process
        system.children["render-1"].process.wait(local.STOP_SECONDS)
