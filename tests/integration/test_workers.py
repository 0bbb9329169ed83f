"""Several real Celery workers on one walk: they share it, and the result does not depend on their number."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from momalisa.client import Client, Walk
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from tests.conftest import wait_for_workers
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
        walk = client.submit(["a giraffe", "a battleship"], frames=FRAMES, seed=7, steps=2, pacing="linear")
        *_, walk = client.watch(walk)
        shares = chunks_by_worker(system, walk)
        assert set(shares) == {f"render-{number}" for number in range(1, workers + 1)}
        assert shares.total() == FRAMES / 8
        return pictures(client, walk)


def test_any_number_of_workers_shares_the_chunks_and_gives_the_same_frames(tmp_path: Path) -> None:
    one, three = (frames_of(workers, tmp_path / f"{workers}") for workers in (1, 3))
    difference = np.abs(np.stack(one).astype(int) - np.stack(three).astype(int))
    assert difference.max() <= THREADS_TOLERANCE
