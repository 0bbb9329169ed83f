"""Ctrl-C during a walk: it continues where it was, and no frame is rendered twice."""

import json
from collections import Counter
from pathlib import Path

from momalisa.client import Client
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from tests.conftest import wait_for_workers

FRAMES = 24


def finished_chunks(system: LocalStack, walk_id: str) -> Counter[int]:
    """Count how often each chunk of a walk was finished, by the logs of this run."""
    done: Counter[int] = Counter()
    for log in (system.folder / "logs").glob("render-*.log"):
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("message") == "chunk done" and event.get("walk") == walk_id:
                done[event["chunk"]] += 1
    return done


def test_a_walk_continues_after_a_stop_where_it_was(tmp_path: Path) -> None:
    def system() -> LocalStack:
        return LocalStack(tmp_path, port=free_port(), workers=1, variables={"BATCH_SIZE": "4"})

    with stack.started(system()) as before:
        wait_for_workers(before)
        with Client(before.url) as client:
            walk = client.submit(["a giraffe", "a battleship"], frames=FRAMES, seed=7, steps=8)
            for seen in client.watch(walk):
                if seen["progress"]["frames_done"]:
                    break
        assert not seen["done"]
    done = finished_chunks(before, walk["id"])
    given_back = [log.read_text().count('"chunk released"') for log in (tmp_path / "logs").glob("render-*.log")]
    assert given_back == [1]  # the worker was processing a chunk

    with stack.started(system()) as after, Client(after.url) as client:
        walk = client.get(walk["id"])
        assert walk["progress"]["frames_done"] == sum(done.values()) * 4
        *_, walk = client.watch(walk)
        assert walk["status"] == "succeeded"
    done += finished_chunks(after, walk["id"])
    assert done == Counter(range(FRAMES // 4))  # each chunk once
