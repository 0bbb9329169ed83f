"""Structured logs: one event per line, as text on a terminal and JSON otherwise, with ids bound by context.

The JSON is that of Google Cloud's structured logging, which other collectors read as well: `severity`, `message`,
`time`, and within a span its ids (https://docs.cloud.google.com/logging/docs/structured-logging).
"""

import logging
import re
import sys
from typing import Any

import structlog
from opentelemetry import trace

from momalisa.settings import settings

_SECRET = re.compile(r"(walks(?P<slash>/|%(?:25)*2F)[0-9a-f-]{36}(?P=slash))[\w-]{22}(?=(?P=slash))", re.IGNORECASE)
"""The secret of a walk in an object name (`bucket.folder_name`), also in a URL."""


def configure() -> None:
    """Send all log lines of this process, those of libraries too, through structlog to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    as_json = settings().log_format == "json" or (settings().log_format == "auto" and not sys.stderr.isatty())
    # Tracebacks are without the values of local variables, which include keys and passwords.
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _for_collectors, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, _without_secrets],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _for_collectors(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Name the fields of a JSON line as Google Cloud Logging does, and add the ids of the current span."""
    line = {
        "severity": event.pop("level").upper(),
        "message": event.pop("event"),
        "time": event.pop("timestamp"),
    }
    line = {**line, **event, **line}  # no field of an event takes the place of these
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        trace_id, span_id = trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)
        if project := settings().google_cloud_project:
            line["logging.googleapis.com/trace"] = f"projects/{project}/traces/{trace_id}"
            line["logging.googleapis.com/spanId"] = span_id
            line["logging.googleapis.com/trace_sampled"] = span.trace_flags.sampled
        else:
            line |= {"trace_id": trace_id, "span_id": span_id}
    return line


def _without_secrets(_logger: object, _method: str, line: Any) -> str:
    """Redact the secrets of walks, which also occur in errors of libraries."""
    return _SECRET.sub(r"\1***", line)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    found: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return found


def cause(error: BaseException) -> str:
    """Return the type and message of the root cause of an error, such as that of the database driver."""
    while (deeper := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = deeper
    return f"{type(error).__name__}: {error}".strip()
