"""If a worker cannot start, it says why in one sentence, with the root cause."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from momalisa.settings import ROOT, environment
from tests.serving import serving
from worker.process import shared_memory
from worker.process.shared_memory import Shared
from worker.process.startup import explain


def test_out_of_memory_is_reported_as_such() -> None:
    assert explain(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 MiB")).startswith(
        "Memory ran out: CUDA out of memory. Tried to allocate 20 MiB. Lower BATCH_SIZE"
    )


def test_the_root_cause_is_reported() -> None:
    error = RuntimeError("cannot open the model")
    error.__context__ = OSError("no space left")
    assert explain(error) == "cannot open the model. (OSError: no space left.)"


class Hub(BaseHTTPRequestHandler):
    """Refuses requests like huggingface.co, and has one model, in a single file."""

    def do_GET(self) -> None:
        refusals = {
            "gated": (403, "GatedRepo", "Access to this model is restricted"),
            "absent": (401, "RepoNotFound", "Invalid username or password."),
            "revised": (404, "RevisionNotFound", "Invalid rev id"),
            "busy": (503, "", "Service Unavailable"),
            "denied": (401, "", "Invalid credentials in Authorization header"),
        }
        refusal = next((answer for name, answer in refusals.items() if name in self.path), None)
        body = json.dumps({"id": "a/single", "siblings": [{"rfilename": "dream.safetensors"}]}).encode()
        self.send_response(refusal[0] if refusal else 200)
        if refusal:
            self.send_header("X-Error-Code", refusal[1])
            self.send_header("X-Error-Message", refusal[2])
            body = b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - as the standard library calls it

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def hub() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Hub)) as url:
        yield url


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

    repository = tmp_path / "hub" / "models--someone--busy"
    for file, content in {
        "refs/main": "a" * 40,
        f"snapshots/{'a' * 40}/model_index.json": '{"_class_name": "X"}',
    }.items():
        (repository / file).parent.mkdir(parents=True)
        (repository / file).write_text(content)
    names = (
        "someone/gated",
        "someone/absent",
        "someone/revised@v9",
        "someone/denied",
        "someone/single",
        "someone/busy",
    )
    with hub() as url:
        gated, absent, revised, denied, single, busy = said(*names, HF_ENDPOINT=url, HF_TOKEN="x")  # noqa: S106
    [offline] = said("someone/absent", HF_HUB_OFFLINE="1")
    [away] = said("someone/absent", HF_ENDPOINT=url)  # where no server listens any more
    assert gated == (
        "Access to this model on the Hub is restricted: accept its terms on its page there, and set HF_TOKEN to a "
        "token of the same account."
    )
    assert absent == (
        "The Hub has no model of this name, or it is private: check the spelling, or set HF_TOKEN to a token that "
        "may read it."
    )
    assert revised == "The model has no such revision on the Hub."
    assert denied == "The Hub does not accept HF_TOKEN: it is wrong, or no longer valid."
    assert single == (
        "someone/single on the Hub has no model_index.json, so it is not a pipeline of diffusers; "
        "someone/single/dream.safetensors names a file of it."
    )
    assert busy.startswith("X of 'someone/busy' cannot render walks."), "it was downloaded before"
    assert offline == "someone/absent is not on this machine, and HF_HUB_OFFLINE forbids downloading it."
    assert away == (
        "someone/absent is not on this machine, and the Hub cannot be reached: check the network and its proxies, "
        "or copy the model into a folder and name that."
    )


def test_shared_memory_whose_writer_was_killed_does_not_block_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "READ_SECONDS", 0.1)
    value: Shared[list[str]] = Shared([])
    value.set(["a walk"])
    value.memory[3:5] = b'"\0'
    assert value.get() == []
    value.set(["another walk"])
    assert value.get() == ["another walk"]
