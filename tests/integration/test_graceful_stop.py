"""Ctrl-C during a walk: it continues where it was, and no frame is rendered twice."""

import json
from collections import Counter, defaultdict
from pathlib import Path

from momalisa.client import Client
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from tests.conftest import until, wait_for_workers

FRAMES = 16

STEPS = 50
"""So many that a chunk takes much longer than a stop."""


def chunks_by_event(system: LocalStack, walk_id: str) -> dict[str, Counter[int]]:
    """Count, by event, how often each chunk of a walk had it, by the logs of this run."""
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for log in (system.folder / "logs").glob("render-*.log"):
        for line in log.read_text().rpartition("\n")[0].splitlines():  # the last line may be half written
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("walk") == walk_id and "chunk" in event:
                found[event["message"]][event["chunk"]] += 1
    return found


def a_later_chunk_is_claimed(chunks: dict[str, Counter[int]]) -> bool:
    return bool(chunks["chunk done"]) and chunks["chunk claimed"] != chunks["chunk done"]


def test_a_walk_continues_after_a_stop_where_it_was(tmp_path: Path) -> None:
    def system() -> LocalStack:
        return LocalStack(tmp_path, port=free_port(), workers=1, variables={"BATCH_SIZE": "4"})

    with stack.started(system()) as before:
        wait_for_workers(before)
        with Client(before.url) as client:
            walk = client.submit(["a giraffe", "a battleship"], frames=FRAMES, seed=7, steps=STEPS)
        until(lambda: a_later_chunk_is_claimed(chunks_by_event(before, walk["id"])))
    done = chunks_by_event(before, walk["id"])["chunk done"]
    assert chunks_by_event(before, walk["id"])["chunk released"].total() == 1  # the worker was processing a chunk

    with stack.started(system()) as after, Client(after.url) as client:
        walk = client.get(walk["id"])
        assert walk["progress"]["frames_done"] == sum(done.values()) * 4
        *_, walk = client.watch(walk)
        assert walk["status"] == "succeeded"
    done += chunks_by_event(after, walk["id"])["chunk done"]
    assert done == Counter(range(FRAMES // 4))  # each chunk once
