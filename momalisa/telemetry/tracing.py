"""Traces by OpenTelemetry, from a request to each chunk of its walk; off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

A message is a permit that names no chunk, so it cannot carry a trace. The walk's row does: whoever claims a chunk
of it goes on with the trace of the request that made it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from momalisa import __version__
from momalisa.settings import settings

EXPORT_SECONDS = 3
"""How long spans may take to be sent; a worker that must stop has 15 s in all."""

_tracer: trace.Tracer = trace.NoOpTracer()
_send_the_rest: Callable[[], None] | None = None


def start(part: str) -> None:
    """Have the spans of this process sent from now on, if there is an endpoint; call it after the last fork.

    The SDK, which costs a second and some megabytes, is imported here only. It reads the other variables of its
    specification by itself: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and so on.
    """
    global _tracer, _send_the_rest
    endpoint = settings().otel_exporter_otlp_endpoint
    if endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    about = Resource.create({"service.name": f"momalisa-{part}", "service.version": __version__})
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider = TracerProvider(resource=about)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer, _send_the_rest = provider.get_tracer("momalisa", __version__), provider.shutdown


def stop() -> None:
    """Send the spans that are left."""
    if _send_the_rest is not None:
        _send_the_rest()


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, **about: str | int
) -> Iterator[Span]:
    """Trace a block.

    Args:
        name: of the kind of work.
        parent: what the work was asked for by, as a W3C `traceparent`; None means by the span around it, if any.
        kind: which side of an exchange this is.
        about: attributes, which get the prefix `momalisa.`.
    """
    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    attributes = {f"momalisa.{key}": value for key, value in about.items()}
    with _tracer.start_as_current_span(name, context, kind, attributes) as started:
        yield started


def failed(reason: str) -> None:
    """Note on the span at hand why its work came to nothing."""
    trace.get_current_span().set_status(Status(StatusCode.ERROR, reason))


def here() -> str | None:
    """Return the span at hand as a W3C `traceparent`, or None if nothing is traced."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
