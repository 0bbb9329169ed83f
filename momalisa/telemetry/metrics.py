"""What a part tells of itself on METRICS_PORT: its metrics, whether it is alive, and whether it is ready.

Every metric is defined here and described in `docs/operations.md`. What is counted is counted after the commit, so
that a figure never tells of work that was undone.
"""

import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import MetricsHandler

from momalisa.errors import PortTakenError
from momalisa.settings import settings

Metric = Counter | Gauge | Histogram

HealthCheck = Callable[[], str | None]
"""Returns None if all is well, or else in a sentence what is not."""

HTTP_REQUESTS = Counter(
    "momalisa_http_requests_total",
    "Requests that were answered, by the path's pattern.",
    ["method", "route", "status"],
    registry=None,
)
HTTP_SECONDS = Histogram(
    "momalisa_http_request_seconds",
    "Time from a request to the first byte of its answer; not of those that asked to wait.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=None,
)
CHUNKS = Gauge("momalisa_chunks", "Chunks that wait or are being worked on.", ["kind", "status"], registry=None)
OLDEST_DUE_CHUNK_SECONDS = Gauge(
    "momalisa_oldest_due_chunk_seconds",
    "How long the chunk has waited that has waited the longest; 0 if none does.",
    ["kind"],
    registry=None,
)
CLAIMS_PAUSED = Gauge(
    "momalisa_claims_paused", "1 while an operator has stopped all claims, as last seen; else 0.", registry=None
)
WALKS = Gauge("momalisa_walks", "Walks that are not over.", ["status"], registry=None)
WALKS_LAST_HOUR = Gauge(
    "momalisa_walks_last_hour", "Walks that ended within the last hour.", ["status"], registry=None
)
CHUNK_SECONDS = Histogram(
    "momalisa_chunk_seconds",
    "Time from the claim of a chunk to the commit of its result.",
    ["kind"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
    registry=None,
)
FRAMES_RENDERED = Counter(
    "momalisa_frames_rendered_total", "Frames that were rendered and recorded.", registry=None
)
FRAMES_WASTED = Counter(
    "momalisa_frames_wasted_total",
    "Frames that were rendered and not recorded: lease lost, attempt failed, or there before.",
    registry=None,
)
LEASES_EXPIRED = Counter(
    "momalisa_leases_expired_total", "Chunks that lost their worker: it fell silent, or died.", registry=None
)
RECOVERY_SECONDS = Histogram(
    "momalisa_recovery_seconds",
    "Time from the loss of a worker to the next claim of its chunk.",
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900),
    registry=None,
)
WEBHOOK_DELIVERIES = Counter(
    "momalisa_webhook_deliveries_total",
    "Attempts to deliver a webhook, by where the delivery stood afterwards.",
    ["status"],
    registry=None,
)
TASK_FAILURES = Counter(
    "momalisa_reconciler_task_failures_total",
    "Rounds of a task of the reconciler that ended with an error.",
    ["task"],
    registry=None,
)
BROKER_FAILURES = Counter("momalisa_broker_failures_total", "Times that the broker was not reached.", registry=None)
GPU_MEMORY_BYTES = Gauge(
    "momalisa_gpu_memory_bytes",
    "Memory of the GPU: allocated by tensors, at most so far (peak), reserved by torch, and all there is (total).",
    ["state"],
    registry=None,
)

API: tuple[Metric, ...] = (HTTP_REQUESTS, HTTP_SECONDS, BROKER_FAILURES)
RECONCILER: tuple[Metric, ...] = (
    *(CHUNKS, OLDEST_DUE_CHUNK_SECONDS, CLAIMS_PAUSED, WALKS, WALKS_LAST_HOUR),
    *(LEASES_EXPIRED, WEBHOOK_DELIVERIES, TASK_FAILURES, BROKER_FAILURES),
)
WORKER: tuple[Metric, ...] = (
    *(CHUNK_SECONDS, FRAMES_RENDERED, FRAMES_WASTED, LEASES_EXPIRED, RECOVERY_SECONDS, GPU_MEMORY_BYTES),
    BROKER_FAILURES,
)
ALL = tuple(dict.fromkeys((*API, *RECONCILER, *WORKER)))

_NUMBERS = {metric: number for number, metric in enumerate(ALL)}

Forward = Callable[[int, float, dict[str, str]], None]
"""Takes the number of a metric, a value and its labels to the process that serves the metric."""

_forward: Forward | None = None


def record(metric: Metric, value: float = 1, **labels: str) -> None:
    """Count a value, set a gauge to it, or observe it; where the metric is served, if that is another process."""
    if _forward is None:
        apply(_NUMBERS[metric], value, labels)
    else:
        _forward(_NUMBERS[metric], value, labels)


def apply(number: int, value: float, labels: dict[str, str]) -> None:
    """Record a value that came from another process, by the number of its metric."""
    metric = ALL[number]
    sample = metric.labels(**labels) if labels else metric
    match sample:
        case Counter():
            sample.inc(value)
        case Gauge():
            sample.set(value)
        case Histogram():
            sample.observe(value)


def forward(to: Forward) -> None:
    """Send all that is recorded in this process to another one."""
    global _forward  # noqa: PLW0603 - said once in the life of a process
    _forward = to


class Server(ThreadingHTTPServer):
    """Answers Prometheus, and whoever looks after the part, until it is closed."""

    daemon_threads = True

    def __init__(self, port: int, metrics: Iterable[Metric], alive: HealthCheck, ready: HealthCheck) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        for metric in metrics:
            registry.register(metric)

        class Handler(_Handler):
            verdicts: ClassVar = {"/healthz": alive, "/readyz": ready}

        Handler.registry = registry
        super().__init__((settings().metrics_host, port), Handler)
        threading.Thread(target=self.serve_forever, name="monitoring", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.shutdown()
        self.server_close()


class _Handler(MetricsHandler):
    timeout = 10  # of a client that says nothing, in seconds
    verdicts: ClassVar[dict[str, HealthCheck]]

    def do_GET(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path
        if path == "/metrics":
            super().do_GET()
        elif (verdict := self.verdicts.get(path)) is not None:
            trouble = verdict()
            self._say(HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK, trouble or "ok")
        else:
            self._say(HTTPStatus.NOT_FOUND, "There are /metrics, /healthz and /readyz.")

    def _say(self, status: HTTPStatus, sentence: str) -> None:
        body = f"{sentence}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(metrics: Iterable[Metric], *, alive: HealthCheck, ready: HealthCheck) -> Server | None:
    """Answer `/metrics`, `/healthz` and `/readyz` on METRICS_PORT; returns None if it is unset.

    Args:
        metrics: those that this part knows.
        alive: whether there is no need to start the part anew.
        ready: whether the part can do its work.

    Raises:
        PortTakenError: if another program listens there.
    """
    port = settings().metrics_port
    if port is None:
        return None
    try:
        return Server(port, metrics, alive, ready)
    except OSError as error:
        raise PortTakenError(f"METRICS_PORT is {port}, which cannot be listened on: {error}.") from error
