"""Traces by OpenTelemetry, from a request to each chunk of its walk; off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

A wake-up message names no chunk, so it carries no trace context. The row of the walk does: a worker that claims one
of its chunks continues the trace of the request that made it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from momalisa.settings import settings

EXPORT_SECONDS = 3
"""Timeout to send spans; a worker on a Spot node has 15 s to stop in all."""

_tracer: trace.Tracer = trace.NoOpTracer()
_shutdown: Callable[[], None] | None = None


def start(part: str) -> None:
    """Start to export the spans of this process, if an endpoint is set; call it after the last fork.

    The SDK is imported only here, since it takes a second and some megabytes. It reads the other variables of the
    OpenTelemetry specification, such as OTEL_EXPORTER_OTLP_HEADERS and OTEL_TRACES_SAMPLER.
    """
    global _tracer, _shutdown
    endpoint = settings().otel_exporter_otlp_endpoint
    if endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    about = Resource.create({"service.name": f"momalisa-{part}", "service.version": settings().momalisa_version})
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider = TracerProvider(resource=about)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer, _shutdown = provider.get_tracer("momalisa", settings().momalisa_version), provider.shutdown


def stop() -> None:
    """Send the remaining spans."""
    if _shutdown is not None:
        _shutdown()


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, **about: str | int
) -> Iterator[Span]:
    """Trace a block.

    Args:
        name: of the span.
        parent: W3C `traceparent` of the parent; None means the current span, if any.
        kind: of the span.
        about: attributes, which get the prefix `momalisa.`.
    """
    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    attributes = {f"momalisa.{key}": value for key, value in about.items()}
    with _tracer.start_as_current_span(name, context, kind, attributes) as started:
        yield started


def failed(reason: str) -> None:
    """Mark the current span as failed."""
    trace.get_current_span().set_status(Status(StatusCode.ERROR, reason))


def here() -> str | None:
    """Return the current span as a W3C `traceparent`, or None if nothing is traced."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
