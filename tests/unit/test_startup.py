"""If a worker cannot start, it says why in one sentence, with the root cause."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from momalisa.errors import ModelError
from momalisa.settings import ROOT, environment
from tests.broken_models import WAYS, broken
from worker.process import shared_memory
from worker.process.shared_memory import Shared
from worker.process.startup import explain
from worker.rendering.pipeline import Renderer


@pytest.mark.parametrize("words", WAYS)
def test_a_model_that_cannot_render_walks_is_refused_in_a_sentence(tmp_path: Path, words: str) -> None:
    model = broken(tmp_path, words)
    with pytest.raises(ModelError) as refused:
        Renderer(str(model), batch_size=1).warm_up(64)
    sentence = explain(refused.value)
    assert words in sentence
    assert str(model) in sentence
    assert "\n" not in sentence


def test_out_of_memory_is_reported_as_such() -> None:
    assert explain(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 MiB")).startswith(
        "Memory ran out: CUDA out of memory. Tried to allocate 20 MiB. Lower BATCH_SIZE"
    )


def test_the_root_cause_is_reported() -> None:
    error = RuntimeError("cannot open the model")
    error.__context__ = OSError("no space left")
    assert explain(error) == "cannot open the model. (OSError: no space left.)"


class Hub(BaseHTTPRequestHandler):
    """Refuses requests like huggingface.co."""

    def do_GET(self) -> None:
        code = {"gated": "GatedRepo", "absent": "RepoNotFound"}["gated" if "gated" in self.path else "absent"]
        self.send_response(403 if code == "GatedRepo" else 401)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - as the standard library calls it

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOAD = """
import sys
from worker.process.startup import explain
from worker.rendering.pipeline import Renderer
for name in sys.argv[1:]:
    try:
        Renderer(name, batch_size=1)
    except Exception as error:
        print(explain(error))
"""


def test_errors_of_the_hub_are_distinguished(tmp_path: Path) -> None:
    def said(*names: str, **variables: str) -> list[str]:
        command = [sys.executable, "-c", LOAD, *names]
        variables = {"HF_HOME": str(tmp_path), "NO_PROXY": "*", **variables}
        run = subprocess.run(
            command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=True
        )
        return run.stdout.splitlines()

    with hub() as url:
        gated, absent = said("somebody/gated", "somebody/absent", HF_ENDPOINT=url)
    [offline] = said("somebody/absent", HF_HUB_OFFLINE="1")
    assert "accept its terms" in gated
    assert "has no model of this name" in absent
    assert "HF_HUB_OFFLINE" in offline


def test_shared_memory_whose_writer_was_killed_does_not_block_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "READ_SECONDS", 0.1)
    value: Shared[list[str]] = Shared([])
    value.set(["a walk"])
    value.memory[3:5] = b'"\0'
    assert value.get() == []
    value.set(["another walk"])
    assert value.get() == ["another walk"]
