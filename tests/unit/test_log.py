import json
import subprocess
import sys

import pytest

from momalisa.settings import ROOT, environment

CODE = """
import logging, structlog
from momalisa import log
log.configure()
with structlog.contextvars.bound_contextvars(walk="w-1", chunk=3):
    log.logger("ours").info("claimed", frames=8)
    logging.getLogger("theirs").warning("careful: %s", "x")
    try:
        1 / 0
    except ZeroDivisionError:
        log.logger("ours").exception("failed")
"""


def lines(log_format: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=environment(LOG_FORMAT=log_format),
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stderr.splitlines()


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_away_from_a_terminal_every_line_is_json_with_the_ids(log_format: str) -> None:
    ours, theirs, failed = map(json.loads, lines(log_format))
    assert (ours["event"], ours["frames"], ours["logger"], ours["level"]) == ("claimed", 8, "ours", "info")
    assert theirs["event"] == "careful: x"
    assert failed["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert all((line["walk"], line["chunk"]) == ("w-1", 3) for line in (ours, theirs, failed))


def test_text_is_for_people() -> None:
    first, *_ = lines("text")
    assert "claimed" in first
    with pytest.raises(json.JSONDecodeError):
        json.loads(first)
