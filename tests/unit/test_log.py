import json
import subprocess
import sys
from datetime import datetime

import pytest

from momalisa.local.processes import free_port
from momalisa.settings import ROOT, environment

CODE = """
import logging, structlog
from momalisa.telemetry import logging as log
log.configure()
with structlog.contextvars.bound_contextvars(walk="w-1", chunk=3):
    log.logger("ours").info("claimed", frames=8)
    logging.getLogger("theirs").warning("careful: %s", "x")
    try:
        1 / 0
    except ZeroDivisionError:
        log.logger("ours").exception("failed")
"""


BUCKET_AWAY = """
from uuid import UUID
from momalisa.storage import bucket
from momalisa.telemetry import logging as log
log.configure()
tries = 0
def check():
    global tries
    tries += 1
    if tries > 1:
        raise TimeoutError
name = bucket.frame_name(UUID(int=7), "Zq3-secret_secret-x_22", 0.25)
try:
    bucket.delete_conflicting(name, check=check)
except TimeoutError:
    log.logger("ours").exception("attempt failed", object=name)
"""
"""An error of the bucket's library that names a missing object."""


IN_A_SPAN = """
from momalisa.telemetry import logging as log, tracing
log.configure()
tracing.start("test")
with tracing.span("work"):
    log.logger("ours").info("inside", traceparent=tracing.here())
log.logger("ours").info("outside")
"""


def lines(log_format: str, code: str = CODE, **variables: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(LOG_FORMAT=log_format, **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stderr.splitlines()


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_without_a_terminal_every_line_is_json_with_the_ids(log_format: str) -> None:
    ours, theirs, failed = map(json.loads, lines(log_format))
    assert (ours["message"], ours["frames"], ours["logger"], ours["severity"]) == ("claimed", 8, "ours", "INFO")
    assert (theirs["message"], theirs["severity"]) == ("careful: x", "WARNING")
    assert failed["severity"] == "ERROR"
    assert failed["exception"].startswith("Traceback")
    assert failed["exception"].endswith("ZeroDivisionError: division by zero")
    assert all((line["walk"], line["chunk"]) == ("w-1", 3) for line in (ours, theirs, failed))
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in (ours, theirs, failed))


@pytest.mark.parametrize("project", ["", "gallery-7"])
def test_a_line_within_a_span_has_its_ids_as_google_wants_them_if_the_project_is_known(project: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "GOOGLE_CLOUD_PROJECT": project}
    inside, outside = map(json.loads, lines("json", IN_A_SPAN, **variables)[:2])
    about = "logging.googleapis.com/"
    ids = {"trace_id", "span_id", f"{about}trace", f"{about}spanId", f"{about}trace_sampled"}
    trace_id, span_id = inside["traceparent"].split("-")[1:3]
    expected = {"trace_id": trace_id, "span_id": span_id}
    if project:
        trace = f"projects/{project}/traces/{trace_id}"
        expected = {f"{about}trace": trace, f"{about}spanId": span_id, f"{about}trace_sampled": True}
    assert {key: inside[key] for key in ids & inside.keys()} == expected
    assert not ids & outside.keys()


def test_text_is_for_people() -> None:
    first, *_ = lines("text")
    assert "claimed" in first
    with pytest.raises(json.JSONDecodeError):
        json.loads(first)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_line_contains_the_secret_of_object_names(log_format: str) -> None:
    found = "\n".join(lines(log_format, BUCKET_AWAY, BUCKET_ENDPOINT=f"http://127.0.0.1:{free_port()}"))
    assert found.count("00000007/***/frames/0.250000000.png") >= 2  # the walk and the frame are logged
    assert "bucket request retried" in found
    assert "%2F***%2Fframes%2F0.250000000.png" in found  # a URL as a library writes it
    assert "secret_secret" not in found
