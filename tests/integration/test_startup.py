"""Workers that cannot start: they claim nothing, say why and exit, and so does the command that started them."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import psutil
from fastapi.testclient import TestClient

from momalisa.db.models import Chunk
from momalisa.db.session import transaction
from momalisa.local.processes import CANNOT_WORK, free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, environment
from tests.broken_models import broken
from tests.conftest import until


def worker(services: LocalStack, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "render"],
        cwd=ROOT,
        env=environment(**services.variables, **variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_with_an_unusable_model_says_why_exits_and_claims_nothing(
    api: TestClient, services: LocalStack, tmp_path: Path
) -> None:
    ways = ["StableDiffusionInpaintPipeline of", "is a pointer of Git LFS"]
    assert api.post("/v1/walks", json={"prompts": ["a cat", "a castle"], "frames": 2}).status_code == 202
    processes = []
    for number, words in enumerate(ways):
        model = broken(tmp_path / str(number), words)
        processes.append(worker(services, MODEL=str(model)))
    for process, words in zip(processes, ways, strict=True):
        _, log = process.communicate(timeout=120)
        assert process.returncode == CANNOT_WORK
        last = log.splitlines()[-1]
        assert words in last
        failures = [json.loads(line) for line in log.splitlines() if '"cannot start"' in line]
        assert [failure["failures"] for failure in failures] == [1, 2, 3]
        assert {failure["reason"] for failure in failures} == {last}
    with transaction() as session:
        [chunk] = session.query(Chunk).all()
        assert (chunk.attempts, chunk.error) == (0, None)


def test_a_worker_with_a_taken_port_or_invalid_settings_says_so_and_exits(services: LocalStack) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - as the port of metrics is
        port = taken.getsockname()[1]
        processes = [worker(services, METRICS_PORT=str(port)), worker(services, BATCH_SIZE="0")]
        sentences = []
        for process in processes:
            _, log = process.communicate(timeout=60)
            assert process.returncode == CANNOT_WORK
            sentences.append(log.splitlines()[-1])
    assert f"METRICS_PORT is {port}, which is not available" in sentences[0]
    assert "BATCH_SIZE: Input should be greater than or equal to 1." in sentences[1]


def test_a_worker_whose_child_is_repeatedly_killed_during_its_start_exits(services: LocalStack) -> None:
    process = worker(services)
    try:
        parent, killed = psutil.Process(process.pid), set()

        def kill_the_next() -> bool:
            for child in parent.children() if process.poll() is None else []:
                if child.pid not in killed and child.num_threads() > 1:  # it is starting
                    killed.add(child.pid)
                    child.kill()
            return process.poll() is not None

        until(kill_the_next)
        _, log = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == CANNOT_WORK
    assert "was killed during its start" in log.splitlines()[-1]


def test_a_system_whose_workers_cannot_start_says_why_and_exits(tmp_path: Path) -> None:
    model = broken(tmp_path, "KandinskyV22Pipeline of")
    command = ["up", "--workers=1", f"--port={free_port()}", f"--folder={tmp_path / 'system'}"]
    run = subprocess.run(
        [sys.executable, "-m", "momalisa", *command],
        cwd=ROOT,
        env=environment(MODEL=str(model)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 1
    assert f"render-1 cannot start. KandinskyV22Pipeline of '{model}' cannot render walks" in run.stderr
