"""A render worker finishes one chunk while it renders the next: a real worker, whose uploads are held at a gate."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from sqlalchemy import select

from momalisa import chunks, jobs, queue
from momalisa.database import transaction
from momalisa.local import System
from momalisa.settings import ROOT, environment, settings
from momalisa.spec import WalkSpec
from momalisa.tables import Chunk, ChunkKind, ChunkStatus
from tests.chaos.proxy import Proxy, Trouble

NAME = re.compile(rb'"walks/([0-9a-f-]+)/frames/')


class Gate(Proxy):
    """Holds back what is uploaded for some walks, and refuses it for some."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.arrived: set[UUID] = set()
        self.held: set[UUID] = set()
        self.refused: set[UUID] = set()
        self._changed = threading.Condition()

    def meet(self, body: bytes) -> Trouble | None:
        found = NAME.search(body)
        if found is None:
            return None
        walk = UUID(found[1].decode())
        with self._changed:
            self.arrived.add(walk)
            self._changed.wait_for(lambda: walk not in self.held)
        return Trouble.FORBIDDEN if walk in self.refused else None

    def let_through(self) -> None:
        """Hold nothing back any more."""
        with self._changed:
            self.held.clear()
            self._changed.notify_all()


@pytest.fixture
def gate(services: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.setenv("BATCH_SIZE", "2")
    settings.cache_clear()
    gate = Gate(services.variables["BUCKET_ENDPOINT"])
    yield gate
    gate.let_through()
    gate.close()


@pytest.fixture
def make(services: System, spec: Callable[..., WalkSpec]) -> Callable[..., UUID]:
    """Make a walk of one chunk."""

    def make_walk(steps: int = 1) -> UUID:
        with transaction() as session:
            return jobs.create(session, spec(frames=2, steps=steps), public=True, owner="ann").id

    return make_walk


class Worker:
    """A render worker, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def child(self) -> psutil.Process | None:
        """Return the process that renders."""
        return next(iter(psutil.Process(self.process.pid).children()), None)

    def logged(self, event: str, walk: UUID) -> list[dict[str, Any]]:
        """Return what was logged of a walk."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event and line.get("walk") == str(walk)]


@pytest.fixture
def start(services: System, gate: Gate, tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def start_worker(permits: int, **variables: str) -> Iterator[Worker]:
        """Run a worker for the length of a block."""
        queue.publish(ChunkKind.RENDER, permits)
        log = tmp_path / "worker.log"
        environ = environment(**{**services.variables, "BATCH_SIZE": "2", "BUCKET_ENDPOINT": gate.url, **variables})
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "render"], cwd=ROOT, env=environ, stderr=output
            )
        try:
            yield Worker(process, log)
        finally:
            gate.let_through()
            process.terminate()
            process.wait(30)

    return start_worker


def chunk(walk: UUID) -> Chunk:
    with transaction() as session:
        return session.scalars(select(Chunk).where(Chunk.walk_id == walk, Chunk.kind == ChunkKind.RENDER)).one()


def until(look: Callable[[], object]) -> None:
    """Look until there is something to see."""
    deadline = time.monotonic() + 90
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_chunk_is_rendered_while_the_one_before_is_uploaded_and_no_third_is_begun(
    make: Callable[..., UUID], gate: Gate, start: Callable[..., Any]
) -> None:
    first, second, third = make(), make(), make()
    gate.held = {first}
    with start(permits=3) as worker:
        until(lambda: worker.logged("rendered", second))
        assert chunk(first).status == chunk(second).status == ChunkStatus.LEASED
        assert chunk(third).status == ChunkStatus.QUEUED
        assert gate.arrived == {first}
        gate.let_through()
        until(lambda: chunk(third).status == ChunkStatus.DONE)
        assert chunk(first).status == chunk(second).status == ChunkStatus.DONE
        assert [len(worker.logged("done", walk)) for walk in (first, second, third)] == [1, 1, 1]


def test_a_worker_that_must_stop_gives_back_what_it_finishes_and_what_it_renders(
    make: Callable[..., UUID], gate: Gate, start: Callable[..., Any]
) -> None:
    finishing, rendering = make(), make(steps=100)
    gate.held = {finishing}
    with start(permits=2) as worker:
        until(lambda: finishing in gate.arrived and chunk(rendering).status == ChunkStatus.LEASED)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(15) == 0
    for walk in (finishing, rendering):
        assert (chunk(walk).status, chunk(walk).attempts, chunk(walk).rank) == (ChunkStatus.QUEUED, 0, 0)
    assert queue.waiting(ChunkKind.RENDER) == 2


def test_an_upload_that_fails_is_the_failed_attempt_of_its_own_chunk(
    make: Callable[..., UUID], gate: Gate, start: Callable[..., Any]
) -> None:
    bad, good = make(), make()
    gate.held, gate.refused = {bad}, {bad}
    with start(permits=2) as worker:
        until(lambda: worker.logged("claimed", good))
        gate.let_through()
        until(lambda: chunk(good).status == ChunkStatus.DONE)
        [failed] = worker.logged("attempt failed", bad)
    assert (failed["chunk"], failed["kind"], failed["attempt"]) == (0, ChunkKind.RENDER, 1)
    assert (chunk(bad).status, chunk(bad).attempts) == (ChunkStatus.QUEUED, 1)
    assert (chunk(bad).error or "").startswith("Forbidden: 403")
    assert (chunk(good).attempts, chunk(good).error) == (1, None)


def test_both_chunks_of_a_process_that_is_killed_are_taken_up_again(
    make: Callable[..., UUID], gate: Gate, start: Callable[..., Any]
) -> None:
    first, second = make(), make()
    gate.held = {first}
    with start(permits=2, LEASE_SECONDS="1") as worker:
        until(lambda: worker.logged("rendered", second))
        until(kept(first))
        until(kept(second))
        worker.child().kill()
        taken = 0

        def both_are_taken_back() -> bool:
            nonlocal taken
            taken += taken_back()
            return taken == 2

        until(both_are_taken_back)
        gate.let_through()
        queue.publish(ChunkKind.RENDER, 2)
        until(lambda: chunk(first).status == chunk(second).status == ChunkStatus.DONE)
    assert [(chunk(walk).attempts, chunk(walk).error) for walk in (first, second)] == [(2, chunks.VANISHED)] * 2


def kept(walk: UUID) -> Callable[[], bool]:
    """Return what tells whether a chunk was kept by a heartbeat since."""
    before = chunk(walk).lease_expires_at
    return lambda: chunk(walk).lease_expires_at != before


def taken_back() -> int:
    with transaction() as session:
        return chunks.take_back(session)


def test_a_process_that_fails_at_finishing_two_walks_ends_when_what_it_renders_is_done(
    make: Callable[..., UUID], gate: Gate, start: Callable[..., Any]
) -> None:
    one, two, good = make(), make(), make()
    gate.refused, gate.held = {one, two}, {two}
    with start(permits=3) as worker:
        until(lambda: worker.logged("claimed", good))
        child = worker.child()
        gate.let_through()
        until(lambda: worker.child() not in {child, None})
    assert [chunk(walk).status for walk in (one, two)] == [ChunkStatus.QUEUED] * 2
    assert [chunk(walk).attempts for walk in (one, two)] == [1, 1]
    assert (chunk(good).status, chunk(good).attempts) == (ChunkStatus.DONE, 1)
