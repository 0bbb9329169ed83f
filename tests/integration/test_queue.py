import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from momalisa.db.session import engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import celery_app, leases
from momalisa.settings import settings
from momalisa.walks import service
from tests.conftest import clear_caches, until
from tests.integration.conftest import worker_process
from worker.process.consumer import PAUSE_SECONDS


def test_messages_are_in_the_queue_of_their_kind(services: LocalStack) -> None:
    celery_app.publish(ChunkKind.RENDER, 3)
    celery_app.publish(ChunkKind.ASSEMBLE)
    assert (celery_app.count_messages(ChunkKind.RENDER), celery_app.count_messages(ChunkKind.ASSEMBLE)) == (3, 1)


def test_a_flushed_broker_has_an_empty_queue(services: LocalStack) -> None:
    celery_app.publish(ChunkKind.RENDER)
    redis.Redis.from_url(settings().broker_url).flushall()
    assert celery_app.count_messages(ChunkKind.RENDER) == 0
    celery_app.publish(ChunkKind.RENDER)
    assert celery_app.count_messages(ChunkKind.RENDER) == 1


def test_a_broker_outage_loses_no_work(services: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    clear_caches()
    celery_app.publish(ChunkKind.RENDER)
    with pytest.raises(celery_app.BROKER_ERRORS):
        celery_app.count_messages(ChunkKind.RENDER)


@pytest.fixture
def twenty_chunks(services: LocalStack) -> None:
    with transaction() as session:
        for _ in range(4):
            spec = WalkSpec(
                prompts=("a", "b"),
                frames=40,
                seed=1,
                negative_prompt="",
                steps=1,
                guidance=1,
                width=128,
                height=128,
                fps=12,
            )
            service.create(session, spec, public=True, owner="ann")


@pytest.mark.usefixtures("twenty_chunks")
def test_the_reconciler_publishes_a_message_for_each_chunk_that_is_due() -> None:
    celery_app.publish(ChunkKind.RENDER, 5)
    reconciler.publish_missing()
    assert celery_app.count_messages(ChunkKind.RENDER) == 20
    reconciler.publish_missing()
    assert celery_app.count_messages(ChunkKind.RENDER) == 20
    with transaction() as session:
        leases.claim(session, ChunkKind.RENDER, "here")
    reconciler.publish_missing()
    assert celery_app.count_messages(ChunkKind.RENDER) == 20  # one too many does no harm


@pytest.mark.usefixtures("twenty_chunks")
def test_the_broker_never_holds_more_messages_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_QUEUED_MESSAGES", "7")
    settings.cache_clear()
    for _ in range(3):
        celery_app.publish(ChunkKind.RENDER, 4)
    reconciler.publish_missing()
    assert celery_app.count_messages(ChunkKind.RENDER) == 7


@pytest.mark.usefixtures("twenty_chunks")
def test_the_reconciler_survives_a_broker_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    celery_app.app.cache_clear()
    settings.cache_clear()
    reconciler.publish_missing()


def test_a_worker_continues_after_the_broker_froze_during_an_acknowledgement(
    services: LocalStack, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    broker = services.children["valkey"].process
    assert broker
    with worker_process(services, ChunkKind.ASSEMBLE, log):
        with engine().begin() as connection:
            connection.execute(text("LOCK TABLE chunks"))  # so that the test decides when the work ends
            celery_app.publish(ChunkKind.ASSEMBLE)
            until(a_claim_waits)
            broker.send_signal(signal.SIGSTOP)
        try:
            until(lambda: "Couldn't ack" in log.read_text())
        finally:
            broker.send_signal(signal.SIGCONT)
        celery_app.publish(ChunkKind.ASSEMBLE)
        until(lambda: log.read_text().count("nothing to do") > 1)


def test_a_worker_survives_a_broker_that_answers_with_errors(services: LocalStack, tmp_path: Path) -> None:
    """READONLY, as after a failover, and OOM, as at maxmemory."""
    log = tmp_path / "worker.log"
    broker: Any = redis.Redis.from_url(settings().broker_url)
    troubles = [
        ("read only", ("REPLICAOF", "127.0.0.1", free_port()), ("REPLICAOF", "NO", "ONE")),
        ("maxmemory", ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)),
    ]
    with worker_process(services, ChunkKind.ASSEMBLE, log) as process:
        until(lambda: "Connected to" in log.read_text())
        for number, (words, trouble, mend) in enumerate(troubles):
            try:
                broker.execute_command(*trouble)
                until(partial(answered_after_a_reconnect, broker, log, words))
                first = time.monotonic()
                until(partial(answered, log, words, 2))
                assert time.monotonic() - first > PAUSE_SECONDS / 2
                assert celery_app.publish(ChunkKind.ASSEMBLE) == 0
            finally:
                broker.execute_command(*mend)
            assert celery_app.publish(ChunkKind.ASSEMBLE) == 1
            until(partial(said, log, "nothing to do", number + 1))
        assert process.poll() is None


def answered_after_a_reconnect(broker: Any, log: Path, words: str) -> bool:
    """Have a worker that waits for a message reconnect; return whether it has backed off because of the response.

    Only a worker that waits notices at once that its connection was killed, and declares its queue again.
    """
    if any("b" in client["flags"] for client in broker.client_list()):
        broker.client_kill_filter(_type="normal", skipme=True)
    return answered(log, words, 1)


def answered(log: Path, words: str, times: int) -> bool:
    """Return whether a worker has backed off this often because of this response of the broker."""
    lines = [line for line in log.read_text().splitlines() if "broker error" in line]
    return sum(words in line for line in lines) >= times


def said(log: Path, words: str, times: int) -> bool:
    return log.read_text().count(words) >= times


def a_claim_waits() -> bool:
    waits = "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%chunks%'"
    with transaction() as session:
        return session.execute(text(waits)).first() is not None
