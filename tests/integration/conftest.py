"""What several integration tests need."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from fastapi.testclient import TestClient
from httpx2 import Response

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, environment, settings
from momalisa.walks import service
from tests import receiver
from tests.clients import accepted
from tests.finished_walks import finish
from tests.receiver import Receiver
from tests.walk_files import SMALL, Reply, look
from worker import assemble_task, render_task, runner
from worker.process.worker import Worker

Limit = Callable[..., None]
Finished = Callable[..., Reply]


def completed(api: TestClient, walk: Reply, seconds: float = 120) -> Reply:
    """Render and assemble a walk in this process until it is done, and return it."""
    deadline = time.monotonic() + seconds
    while not walk["done"]:
        assert time.monotonic() < deadline, (walk["status"], walk["progress"])
        runner.run(Worker(), ChunkKind.RENDER, render_task.render)
        runner.run(Worker(), ChunkKind.ASSEMBLE, assemble_task.assemble)
        walk = api.get(f"/v1/walks/{walk['id']}").json()
    assert walk["status"] == "succeeded", walk["error"]
    return walk


@contextmanager
def worker_process(
    services: LocalStack, kind: ChunkKind, log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker during the block."""
    variables = {**services.variables, **variables}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", kind], cwd=ROOT, env=environment(**variables), stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def finished(api: TestClient) -> Finished:
    """Create and complete a walk, as a visitor who owns all walks of the factory."""

    def make_walk(**changes: Any) -> Reply:
        walk = accepted(api, {**SMALL, **changes})
        finish(UUID(walk["id"]))
        return look(api, walk["id"])

    return make_walk


@pytest.fixture
def limit(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Turn limits on, with nothing counted yet."""
    broker = redis.Redis.from_url(settings().broker_url)
    for key in broker.scan_iter(f"{settings().queue_prefix}limits:*"):
        broker.delete(key)
    broker.close()

    def set_limits(**changes: Any) -> None:
        for name, value in {"rate_limits": "on", **changes}.items():
            monkeypatch.setenv(name.upper(), str(value))
        settings.cache_clear()

    return set_limits


@pytest.fixture
def barred(services: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver on this machine, which is trusted but not allowed."""
    with receiver.listening(tmp_path) as listening:
        monkeypatch.setenv("WEBHOOK_CA", str(listening.authority))
        settings.cache_clear()
        yield listening


@pytest.fixture
def hook(barred: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver that is allowed, with the name `receiver.test`."""
    monkeypatch.setenv("WEBHOOK_LOOPBACK", "true")
    settings.cache_clear()
    return barred


@pytest.fixture
def canceled(services: LocalStack, spec: Callable[..., WalkSpec]) -> Callable[..., UUID]:
    """Create a walk with a webhook and cancel it, so that there is a delivery."""

    def make(url: str, owner: str = "ann") -> UUID:
        with transaction() as session:
            walk_id = service.create(session, spec(), public=True, owner=owner, webhook_url=url).id
        with transaction() as session:
            service.cancel(session, walk_id, owner=owner)
        return walk_id

    return make


def assert_refused(answer: Response, words: str) -> None:
    """Check that a limit refuses a request, and says which."""
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/limit-exceeded"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert words in answer.json()["detail"]
