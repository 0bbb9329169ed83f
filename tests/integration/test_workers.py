"""Several real Celery workers on one walk: they share it, and the result does not depend on their number."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from momalisa.client import Client, Walk
from momalisa.db.models import Worker
from momalisa.db.session import transaction
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, environment
from tests.conftest import until, wait_for_workers
from worker.media import encoders
from worker.media.encoders import Picture

THREADS_TOLERANCE = 2
"""Levels of 255 by which a pixel may change with the number of CPU threads: sums are computed in another order."""

FRAMES = 64  # eight chunks


def pictures(client: Client, walk: Walk) -> list[Picture]:
    return [encoders.decode_png(client.download(frame["url"] or "")) for frame in walk["frames"]]


def chunks_by_worker(system: LocalStack, walk: Walk) -> Counter[str]:
    """Count the chunks of a walk that each render worker has logged as done."""
    done: Counter[str] = Counter()
    for log in (system.folder / "logs").glob("render-*.log"):
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("message") == "chunk done" and event.get("walk") == walk["id"]:
                done[log.stem] += 1
    return done


def frames_of(workers: int, folder: Path) -> list[Picture]:
    """Return the frames of a walk, after checking that this many workers rendered it."""
    with (
        stack.started(LocalStack(folder, port=free_port(), workers=workers)) as system,
        Client(system.url) as client,
    ):
        wait_for_workers(system)
        walk = client.submit(
            ["a giraffe", "a battleship"], frames=FRAMES, seed=7, steps=2, pacing="linear", exact=True
        )
        *_, walk = client.watch(walk)
        shares = chunks_by_worker(system, walk)
        assert set(shares) == {f"render-{number}" for number in range(1, workers + 1)}
        assert shares.total() == FRAMES / 8
        return pictures(client, walk)


def test_any_number_of_workers_shares_the_chunks_and_gives_the_same_frames(tmp_path: Path) -> None:
    one, three = (frames_of(workers, tmp_path / f"{workers}") for workers in (1, 3))
    difference = np.abs(np.stack(one).astype(int) - np.stack(three).astype(int))
    assert difference.max() <= THREADS_TOLERANCE


def test_each_gpu_of_a_container_has_a_worker_of_its_own(services: LocalStack, tmp_path: Path) -> None:
    """There is no GPU here: the program that lists them is a stand-in, and the workers use the processor."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    program.chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "THREADS": "1", "METRICS_PORT": None}
    environ = environment(**{**services.variables, **given, "DEVICE": None, "CUDA_VISIBLE_DEVICES": None})
    fleet = subprocess.Popen([sys.executable, "-m", "worker", "render"], cwd=ROOT, env=environ)

    def alive() -> list[str]:
        with transaction() as session:
            return [name for (name,) in session.query(Worker.name).all()]

    try:
        until(lambda: len(alive()) == 2, 120)
        children = psutil.Process(fleet.pid).children()
        assert sorted(each.environ()["CUDA_VISIBLE_DEVICES"] for each in children) == ["GPU-a", "GPU-b"]
        assert {each.ppid() for name in alive() for each in [psutil.Process(int(name.split(":")[1]))]} == {
            each.pid for each in children
        }
    finally:
        fleet.terminate()
        try:
            code = fleet.wait(60)
        except subprocess.TimeoutExpired:
            fleet.kill()
            code = fleet.wait()
    assert code == 0
    assert alive() == []
