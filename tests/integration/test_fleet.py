"""One render worker for each GPU of a machine; the workers are stand-ins that answer on the ports given to them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from momalisa.local.processes import CANNOT_WORK, free_port, is_free
from momalisa.settings import ROOT, environment
from tests.conftest import until

WORKER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

gpu, folder = os.environ["CUDA_VISIBLE_DEVICES"], sys.argv[1]
if os.path.exists(f"{folder}/broken-{gpu}"):
    sys.exit(78)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        loading = self.path == "/readyz" and os.path.exists(f"{folder}/loading-{gpu}")
        self.send_response(503 if loading else 200)
        self.end_headers()
        figures = "momalisa_frames_rendered_total 3\\nprocess_max_fds 9\\n"
        text = figures if self.path == "/metrics" else "The model is being loaded." if loading else "ok"
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

HTTPServer((os.environ["METRICS_HOST"], int(os.environ["METRICS_PORT"])), Handler).serve_forever()
"""

FLEET = """
import sys
from worker.process import fleet
fleet.COMMAND, fleet.RESTART_SECONDS = (sys.executable, sys.argv[1], sys.argv[2]), 0.2
fleet.ANSWER_SECONDS = 3.0  # this machine may be busy with other tests
sys.exit(fleet.run(["GPU-a", "GPU-b"]))
"""


class Fleet:
    """A fleet on two GPUs."""

    def __init__(self, folder: Path, port: int) -> None:
        script = folder / "worker.py"
        script.write_text(WORKER)
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", FLEET, str(script), str(folder)],
            cwd=ROOT,
            env=environment(METRICS_PORT=str(port)),
        )

    def get(self, path: str) -> tuple[int, str]:
        try:
            answer = httpx.get(f"{self.url}{path}", timeout=30, trust_env=False)
        except httpx.ConnectError:
            return 0, ""
        return answer.status_code, answer.text.strip()

    def worker(self, gpu: str) -> psutil.Process:
        [found] = [
            each
            for each in psutil.Process(self.process.pid).children()
            if each.environ()["CUDA_VISIBLE_DEVICES"] == gpu
        ]
        return found

    def end(self) -> None:
        """Kill it with its workers, also with those that a test suspended."""
        workers = psutil.Process(self.process.pid).children() if self.process.poll() is None else []
        self.process.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        self.process.wait(10)

    def figures(self, name: str) -> dict[str, float]:
        """Return the samples of a metric by their GPU."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {sample.labels.get("gpu", ""): sample.value for sample in samples}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Fleet]]:
    port = next(port for port in iter(free_port, 0) if is_free(port + 1) and is_free(port + 2))
    started: list[Fleet] = []

    def fleet() -> Fleet:
        started.append(Fleet(tmp_path, port))
        return started[-1]

    yield fleet
    for each in started:
        each.end()


def test_the_workers_of_all_gpus_are_ready_and_measured_together(
    start: Callable[[], Fleet], tmp_path: Path
) -> None:
    (tmp_path / "loading-GPU-b").touch()
    fleet = start()
    until(lambda: fleet.get("/readyz") == (503, "GPU-b: The model is being loaded."), 20)
    until(lambda: fleet.get("/healthz") == (200, "ok"), 20)
    (tmp_path / "loading-GPU-b").unlink()
    until(lambda: fleet.get("/readyz") == (200, "ok"), 20)
    until(lambda: fleet.figures("momalisa_frames_rendered_total") == {"GPU-a": 3, "GPU-b": 3}, 20)
    assert fleet.figures("process_max_fds").keys() == {""}, "of this process only"
    fleet.process.send_signal(signal.SIGTERM)
    fleet.process.wait(10)
    assert fleet.get("/readyz") == (0, "")


def test_a_worker_that_ends_is_started_again_and_the_others_go_on(start: Callable[[], Fleet]) -> None:
    fleet = start()
    until(lambda: fleet.get("/readyz")[0] == 200, 20)
    other, killed = fleet.worker("GPU-a"), fleet.worker("GPU-b")
    killed.suspend()
    until(lambda: fleet.get("/readyz") == (503, "GPU-b: its worker does not answer."), 30)
    until(lambda: fleet.figures("momalisa_worker_ready") == {"GPU-b": 0}, 30)
    killed.kill()
    until(lambda: fleet.get("/readyz")[0] == 200, 20)
    assert fleet.worker("GPU-a") == other
    assert fleet.worker("GPU-b") != killed


def test_a_gpu_that_does_not_work_ends_no_other_worker(start: Callable[[], Fleet], tmp_path: Path) -> None:
    (tmp_path / "broken-GPU-b").touch()
    fleet = start()
    until(lambda: fleet.get("/readyz") == (503, "GPU-b: its worker has ended; the log says why."), 20)
    until(lambda: fleet.figures("momalisa_frames_rendered_total") == {"GPU-a": 3}, 20)
    until(lambda: fleet.get("/healthz") == (200, "ok"), 20)
    assert fleet.process.poll() is None


def test_where_no_worker_can_work_the_fleet_ends_like_one(start: Callable[[], Fleet], tmp_path: Path) -> None:
    for gpu in ("GPU-a", "GPU-b"):
        (tmp_path / f"broken-{gpu}").touch()
    assert start().process.wait(20) == CANNOT_WORK


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes outlive their parent")
def test_workers_end_with_the_process_that_started_them(start: Callable[[], Fleet]) -> None:
    fleet = start()
    until(lambda: fleet.get("/readyz")[0] == 200, 20)
    worker = fleet.worker("GPU-a")
    os.kill(fleet.process.pid, signal.SIGKILL)
    worker.wait(10)
