"""A process that dies during a chunk: however it ended, its successor reports it at once."""

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select, update

from momalisa.db.models import Chunk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.queue import celery_app
from momalisa.settings import ROOT, environment
from momalisa.walks import service
from tests.conftest import until
from worker.process.crash import describe_exit

WORKER = """
import os, signal, sys, threading
from worker import render_task
from worker.__main__ import main
ends = [lambda: os._exit(7), lambda: os.kill(os.getpid(), signal.SIGKILL), threading.Event().wait]
render_task.render = lambda lease: ends[lease.claim.attempt - 1]()
sys.argv[1:] = ["render"]
sys.exit(main())
"""
"""A worker without a model, whose process ends at each chunk, each time in another way."""

ENDS = [
    "its process ended with exit code 7",
    "its process was killed (SIGKILL), most often because memory ran out",
    "its worker hung",
]


def test_every_death_of_a_process_is_recorded_and_its_worker_backs_off(
    services: LocalStack, spec: Callable[..., WalkSpec]
) -> None:
    port = free_port()
    variables = {"LEASE_SECONDS": "600", "STALL_SECONDS": "1", "METRICS_PORT": str(port)}
    variables |= {"RENDERER": "vertex", "VERTEX_ENDPOINT": "projects/1/locations/europe-west4/endpoints/1"}
    made = spec(frames=4)
    with transaction() as session:
        walk_id = service.create(session, made, public=True, owner="ann").id

    def errors() -> list[str]:
        with transaction() as session:
            return [attempt["error"] for attempt in session.scalars(select(Chunk.history).where(sick)).one()]

    sick = Chunk.walk_id == walk_id
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd=ROOT, env=environment(**services.variables, **variables)
    )
    try:
        for number, _ in enumerate(ENDS, 1):
            with transaction() as session:
                session.execute(update(Chunk).where(sick).values(scheduled_at=func.now()))
                if number == len(ENDS):
                    another = Chunk.walk_id == service.create(session, made, public=True, owner="bob").id
                    # Later than the first failure was counted, which may happen after it can be read.
                    done = {"status": ChunkStatus.DONE, "finished_at": func.now() + timedelta(minutes=1)}
                    session.execute(update(Chunk).where(another).values(done))
            celery_app.publish(ChunkKind.RENDER)
            until(lambda: len(errors()) == number)  # noqa: B023 - called at once
        assert errors() == ENDS
        until(lambda: ENDS[-1] in httpx.get(f"http://127.0.0.1:{port}/readyz").text)
    finally:
        process.terminate()
        process.wait(20)
    with transaction() as session:
        [parent] = session.scalars(select(Chunk.failed_on).where(sick)).one()
    assert parent.endswith(f":{process.pid}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "its process ended with exit code 0"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV"),
        (-signal.SIGALRM, "its worker hung"),
        (-40, "its process was ended by signal 40"),
    ],
)
def test_every_exit_code_is_described(code: int, words: str) -> None:
    assert describe_exit(code) == words
