"""Several real Celery workers on one walk: they share it, and nobody can tell how many there were."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from momalisa import local
from momalisa.client import Client, Walk
from momalisa.local import System
from momalisa.processes import free_port
from tests.conftest import wait_for_workers
from worker import assembly
from worker.assembly import Picture

THREADS_TOLERANCE = 2
"""Levels of 255 by which a pixel may change with the number of CPU threads: sums are taken in another order."""

FRAMES = 64  # eight chunks


def make_walk(client: Client) -> Walk:
    walk = client.submit(["a giraffe", "a battleship"], frames=FRAMES, seed=7, steps=4, pacing="linear")
    *_, done = client.watch(walk)
    return done


def pictures(client: Client, walk: Walk) -> list[Picture]:
    return [assembly.decode_png(client.download(frame["url"] or "")) for frame in walk["frames"]]


def chunks_by_worker(system: System, walk: Walk) -> Counter[str]:
    """Count the chunks of a walk that each render worker says it has done."""
    done: Counter[str] = Counter()
    for log in (system.folder / "logs").glob("render-*.log"):
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "done" and event.get("walk") == walk["id"]:
                done[log.stem] += 1
    return done


@pytest.fixture(scope="module")
def two(system: System) -> list[Picture]:
    wait_for_workers(system)
    with Client(system.url) as client:
        walk = make_walk(client)
        shares = chunks_by_worker(system, walk)
        assert set(shares) == {"render-1", "render-2"}
        assert shares.total() == FRAMES / 8
        return pictures(client, walk)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_frames_and_shares_the_chunks(
    workers: int, two: list[Picture], tmp_path: Path
) -> None:
    with (
        local.started(System(tmp_path, port=free_port(), workers=workers)) as system,
        Client(system.url) as client,
    ):
        wait_for_workers(system)
        walk = make_walk(client)
        shares = chunks_by_worker(system, walk)
        assert set(shares) == {f"render-{number}" for number in range(1, workers + 1)}
        assert shares.total() == FRAMES / 8
        found = pictures(client, walk)
    difference = np.abs(np.stack(found).astype(int) - np.stack(two).astype(int))
    assert difference.max() <= THREADS_TOLERANCE
