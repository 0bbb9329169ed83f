"""Metrics, liveness and readiness of a process, served on METRICS_PORT.

Every metric is defined here and described in `docs/operations.md`. Results are counted after the commit, so that no
count includes work that was rolled back.
"""

import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from momalisa.domain.states import ENDED
from momalisa.errors import PortTakenError
from momalisa.settings import settings

Metric = Counter | Gauge | Histogram

HealthCheck = Callable[[], str | None]
"""Returns None if the process is healthy, or a sentence on what is wrong."""

BUILD_INFO = Gauge(
    "momalisa_build_info",
    "1, with the version and commit of this part.",
    ["version", "revision"],
    registry=None,
)
HTTP_REQUESTS = Counter(
    "momalisa_http_requests_total",
    "Answered requests by route pattern, without those of probes.",
    ["method", "route", "status"],
    registry=None,
)
HTTP_SECONDS = Histogram(
    "momalisa_http_request_seconds",
    "Time from a request to the first byte of its response, without long polls.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=None,
)
CHUNKS = Gauge("momalisa_chunks", "Queued and leased chunks.", ["kind", "model", "status"], registry=None)
OLDEST_DUE_CHUNK_SECONDS = Gauge(
    "momalisa_oldest_due_chunk_seconds",
    "Time since the oldest queued chunk became due; 0 if there is none.",
    ["kind", "model"],
    registry=None,
)
CLAIMS_PAUSED = Gauge("momalisa_claims_paused", "1 while claims are paused, else 0.", registry=None)
WALKS = Gauge("momalisa_walks", "Active walks.", ["status"], registry=None)
WALKS_LAST_HOUR = Gauge(
    "momalisa_walks_last_hour", "Walks that ended within the last hour.", ["status"], registry=None
)
WALKS_TO_REMOVE = Gauge(
    "momalisa_walks_to_remove", "Deleted and expired walks whose objects and rows are still there.", registry=None
)
WORKERS = Gauge(
    "momalisa_workers",
    "Workers that were seen in the database within LEASE_SECONDS.",
    ["kind", "model"],
    registry=None,
)
MESSAGES = Gauge("momalisa_messages", "Wake-up messages that wait in the broker.", ["kind", "model"], registry=None)
WALK_SECONDS = Histogram(
    "momalisa_walk_seconds",
    "Time from the submission of a walk to its end.",
    ["status"],
    buckets=(5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240),
    registry=None,
)
FIRST_FRAME_SECONDS = Histogram(
    "momalisa_first_frame_seconds",
    "Time from the submission of a walk to its first recorded frames, which make its first preview.",
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
    registry=None,
)
CONNECTION_SECONDS = Histogram(
    "momalisa_database_connection_seconds",
    "Time that a transaction waits for a connection from the pool.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
    registry=None,
)
BUCKET_SECONDS = Histogram(
    "momalisa_bucket_request_seconds",
    "Time from a request to the bucket to the head of its response.",
    ["method", "status"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=None,
)
SIGNING_SECONDS = Histogram(
    "momalisa_url_signing_seconds",
    "Time to sign the URL of an object.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=None,
)
CHUNK_SECONDS = Histogram(
    "momalisa_chunk_seconds",
    "Time from the claim of a chunk to the commit of its result.",
    ["kind", "model"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
    registry=None,
)
FRAMES_RENDERED = Counter(
    "momalisa_frames_rendered_total", "Frames that were rendered and recorded.", ["model"], registry=None
)
FRAMES_WASTED = Counter(
    "momalisa_frames_wasted_total",
    "Frames that were rendered and not recorded: lease lost, attempt failed, or recorded before.",
    ["model"],
    registry=None,
)
LEASES_EXPIRED = Counter(
    "momalisa_leases_expired_total", "Leases that expired, or whose worker process died.", registry=None
)
RECOVERY_SECONDS = Histogram(
    "momalisa_recovery_seconds",
    "Time from the loss of a lease to the next claim of the chunk.",
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900),
    registry=None,
)
WEBHOOK_DELIVERIES = Counter(
    "momalisa_webhook_deliveries_total",
    "Attempts to deliver a webhook, by the resulting status of the delivery.",
    ["status"],
    registry=None,
)
TASK_FAILURES = Counter(
    "momalisa_reconciler_task_failures_total",
    "Rounds of a task of the reconciler that ended with an error.",
    ["task"],
    registry=None,
)
BROKER_FAILURES = Counter("momalisa_broker_failures_total", "Failed requests to the broker.", registry=None)
BATCHES_HALVED = Counter(
    "momalisa_batches_halved_total", "Batches that memory did not suffice for, which were halved.", registry=None
)
WORKER_READY = Gauge(
    "momalisa_worker_ready", "1 while the worker could start a chunk, as `/readyz` says, else 0.", registry=None
)
GPU_MEMORY_BYTES = Gauge(
    "momalisa_gpu_memory_bytes",
    "GPU memory: allocated by tensors, its peak, reserved by torch, and total.",
    ["state"],
    registry=None,
)

for _status in ENDED:
    WALK_SECONDS.labels(status=_status)  # at 0, since the first of its kind would be no increase

EVERY_PART: tuple[Metric, ...] = (BUILD_INFO, CONNECTION_SECONDS, WALK_SECONDS, BROKER_FAILURES)
API: tuple[Metric, ...] = (*EVERY_PART, HTTP_REQUESTS, HTTP_SECONDS, SIGNING_SECONDS)
RECONCILER: tuple[Metric, ...] = (
    *(*EVERY_PART, CHUNKS, OLDEST_DUE_CHUNK_SECONDS, CLAIMS_PAUSED, WALKS, WALKS_LAST_HOUR, WALKS_TO_REMOVE),
    *(WORKERS, MESSAGES, LEASES_EXPIRED, WEBHOOK_DELIVERIES, TASK_FAILURES, BUCKET_SECONDS),
)
WORKER: tuple[Metric, ...] = (
    *(*EVERY_PART, CHUNK_SECONDS, FIRST_FRAME_SECONDS, FRAMES_RENDERED, FRAMES_WASTED, LEASES_EXPIRED),
    *(RECOVERY_SECONDS, WORKER_READY, GPU_MEMORY_BYTES, BATCHES_HALVED, BUCKET_SECONDS),
)
ALL = tuple(dict.fromkeys((*API, *RECONCILER, *WORKER)))


def name(metric: Metric) -> str:
    """Return the name of a metric, as it is declared and documented."""
    [family] = metric.describe()
    return family.name + ("_total" if isinstance(metric, Counter) else "")


_BY_NAME = {name(metric): metric for metric in ALL}
_NAMES = {metric: name for name, metric in _BY_NAME.items()}

Forward = Callable[[str, float, dict[str, str]], None]
"""Sends the name of a metric, a value and its labels to the process that serves the metric."""

_forward: Forward | None = None


def record(metric: Metric, value: float = 1, **labels: str) -> None:
    """Increment a counter, set a gauge or observe a value, in the process that serves the metric."""
    (_forward or apply)(_NAMES[metric], value, labels)


def apply(name: str, value: float, labels: dict[str, str]) -> None:
    """Record a value in this process, as `record` does, by the name of its metric."""
    metric = _BY_NAME[name]
    sample = metric.labels(**labels) if labels else metric
    match sample:
        case Counter():
            sample.inc(value)
        case Gauge():
            sample.set(value)
        case Histogram():
            sample.observe(value)


def forward(to: Forward | None) -> None:
    """Have all that is recorded in this process sent to another one, or no longer if `to` is None."""
    global _forward  # noqa: PLW0603 - set once in the life of a process
    _forward = to


class Server(ThreadingHTTPServer):
    """Serves metrics and health checks until it is closed."""

    daemon_threads = True

    def __init__(self, port: int, metrics: Iterable[Collector], alive: HealthCheck, ready: HealthCheck) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        for metric in metrics:
            registry.register(metric)
        record(BUILD_INFO, 1, version=settings().momalisa_version, revision=settings().momalisa_revision)

        class Handler(_Handler):
            checks: ClassVar = {"/healthz": alive, "/readyz": ready}

        Handler.registry = registry
        super().__init__((settings().metrics_host, port), Handler)
        threading.Thread(target=self.serve_forever, name="monitoring", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()


class _Handler(MetricsHandler):
    timeout = 10  # of a silent client, in seconds
    checks: ClassVar[dict[str, HealthCheck]]

    def do_GET(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path
        if path == "/metrics":
            super().do_GET()
        elif (check := self.checks.get(path)) is not None:
            problem = check()
            self._respond(HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK, problem or "ok")
        else:
            self._respond(HTTPStatus.NOT_FOUND, "Not found; there are /metrics, /healthz and /readyz.")

    def _respond(self, status: HTTPStatus, sentence: str) -> None:
        body = f"{sentence}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(metrics: Iterable[Collector], *, alive: HealthCheck, ready: HealthCheck) -> Server | None:
    """Serve `/metrics`, `/healthz` and `/readyz` on METRICS_PORT; returns None if it is unset.

    Args:
        metrics: of this process.
        alive: fails if the process must be restarted.
        ready: fails while the process cannot do its work.

    Raises:
        PortTakenError: if another program listens there.
    """
    port = settings().metrics_port
    if port is None:
        return None
    try:
        return Server(port, metrics, alive, ready)
    except OSError as error:
        raise PortTakenError(f"METRICS_PORT is {port}, which is not available: {error}.") from error
