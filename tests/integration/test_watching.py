"""Many clients that wait for walks: their cost, their limits, and how streams end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from fastapi import Request, Response
from fastapi.testclient import TestClient
from sqlalchemy import event, make_url, text, update

from api.access import Caller
from api.live import listener, long_polling, watchers
from api.routes import walks
from api.schemas.views import WalkView
from momalisa import api_keys
from momalisa.db import notifications, session
from momalisa.db.models import Walk
from momalisa.db.session import BEGIN, engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.local.processes import free_port
from momalisa.settings import ROOT, settings
from momalisa.telemetry import logging
from momalisa.walks import moderation, service
from tests.conftest import until

logging.configure()

WAITERS = 500


@pytest.fixture
def walk(services: object, spec: Callable[..., WalkSpec]) -> UUID:
    with transaction() as session:
        return service.create(session, spec(frames=2), public=True, owner="visitor:ann").id


def change(walk: UUID) -> None:
    with transaction() as session:
        session.execute(update(Walk).where(Walk.id == walk).values(notifications.changed(session, walk)))


@contextmanager
def statements() -> Iterator[list[str]]:
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement != BEGIN:
            sent.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", note)


def test_one_query_serves_all_who_wait_for_a_walk(walk: UUID) -> None:
    with transaction() as session:
        key = api_keys.create(session, "a program")[0].id
    reads: list[str] = []

    def read(viewer: str | None) -> str:
        reads.append("read")
        return "read"

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def wait(number: int, seconds: float) -> bool:
        caller = Caller(f"visitor:{number}", f"address:{number}", key if number % 2 else None)
        request = Request({"type": "http"}, receive)
        seen, new = await long_polling.for_change(request, walk, caller, 'W/"1"', seconds, read, shared_by=None)
        return seen.revision > 1 and new == "read"

    async def run() -> None:
        async with listener.lifespan(), asyncio.timeout(60):
            while not listener.is_listening():
                await asyncio.sleep(0.01)
            with transaction() as session:  # a queued walk has a new tag every ten seconds
                session.execute(text("UPDATE walks SET status = 'running', started_at = now()"))
            with statements() as sent:
                waits = [asyncio.create_task(wait(number, 60)) for number in range(WAITERS)]
                await asyncio.sleep(3)
                assert not any(it.done() for it in waits)
                assert len(sent) < 5 * 3
            change(walk)
            with statements() as sent:
                assert all(await asyncio.gather(*waits))
                assert len(sent) <= 4  # one or two queries of the walk and of the keys
        assert reads == ["read"]

    asyncio.run(run())
    assert not watchers.watches
    assert not listener.events
    assert not watchers.open_waits


def test_a_queued_walk_is_read_once_for_all_who_wait(
    services: object, spec: Callable[..., WalkSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all who do not own it; its owner, and that of a private source, get their own view."""
    with transaction() as session:
        source = service.create(session, spec(frames=2, seed=1), public=True, owner="visitor:bob")
        walk = service.create(session, spec(frames=2), public=True, owner="visitor:ann", source=source)
        service.set_public(session, source.id, False, owner="visitor:bob")
    owners = ["visitor:ann", "visitor:bob", None, *(f"visitor:{number}" for number in range(WAITERS - 3))]
    now = time.time()
    monkeypatch.setattr("api.live.long_polling.time.time", lambda: now)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def wait(owner: str | None, tag: str) -> tuple[bool, bool]:
        caller, request = Caller(owner, f"address:{owner}", None), Request({"type": "http"}, receive)
        answer = await walks.read_walk(walk.id, request, Response(), "http://here", caller, 30, tag)
        assert isinstance(answer, WalkView)
        assert answer.progress.queue_position is not None
        return answer.mine, answer.from_walk == source.id

    async def run() -> None:
        nonlocal now
        async with listener.lifespan(), asyncio.timeout(60):
            while not listener.is_listening():
                await asyncio.sleep(0.01)
            for _ in range(3):
                tag = long_polling.etag(long_polling.snapshot(walk.id, Caller(None, "", None)))
                with statements() as sent:
                    waits = [asyncio.create_task(wait(owner, tag)) for owner in owners]
                    while walk.id not in watchers.watches or watchers.watches[walk.id].waiters < WAITERS:
                        await asyncio.sleep(0.01)
                    now += long_polling.QUEUE_SECONDS
                    listener.events[str(walk.id)].set()  # as its periodic poll does
                    seen = dict(zip(owners, await asyncio.gather(*waits), strict=True))
                assert len(sent) < 5 * long_polling.QUEUE_SECONDS
                assert (seen.pop("visitor:ann"), seen.pop("visitor:bob")) == ((True, False), (False, True))
                assert set(seen.values()) == {(False, False)}

    asyncio.run(run())


@pytest.fixture
def limits(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITS", "on")
    monkeypatch.setenv("MAX_OPEN_WAITS", "2")
    monkeypatch.setenv("MAX_PROCESS_WAITS", "3")
    settings.cache_clear()


@pytest.mark.usefixtures("limits")
def test_the_number_of_waiting_requests_is_limited(api: TestClient, walk: UUID) -> None:
    with transaction() as session:
        others = [{"Authorization": f"Bearer {api_keys.create(session, name)[1]}"} for name in ("a", "b")]
    events, patient = f"/v1/walks/{walk}/events", {"Prefer": "wait=30"}
    with ThreadPoolExecutor() as pool:
        held = [pool.submit(api.get, events), pool.submit(api.get, f"/v1/walks/{walk}", headers=patient)]
        until(lambda: watchers.open_waits.total() == 2)
        for refused in (api.get(events), api.get(f"/v1/walks/{walk}", headers=patient)):
            assert (refused.status_code, refused.json()["type"]) == (429, "/problems/limit-exceeded")
            assert refused.headers["retry-after"] == "5"
        held.append(pool.submit(api.get, events, headers=others[0]))
        until(lambda: watchers.open_waits.total() == 3)
        refused = api.get(events, headers=others[1])
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/too-many-waiters")
        assert refused.headers["retry-after"] == "5"
        assert api.get(f"/v1/walks/{walk}", headers=others[1]).status_code == 200  # does not wait
        with transaction() as session:
            moderation.delete(session, walk)
        assert [it.result().status_code for it in held] == [200, 404, 200]
    assert not watchers.open_waits


@pytest.fixture
def stream(api: TestClient, walk: UUID) -> Iterator[Callable[..., Future[str]]]:
    """Follow the walk in another thread until the stream ends."""
    with ThreadPoolExecutor() as pool:

        def follow(**headers: str) -> Future[str]:
            following = pool.submit(lambda: api.get(f"/v1/walks/{walk}/events", headers=headers).text)
            until(lambda: watchers.watches)
            until(lambda: watchers.watches[walk]._seen)
            return following

        try:
            yield follow
        finally:
            assert api.portal
            api.portal.call(watchers.end)


def last(stream: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the data of the last event of a stream."""
    fields = dict(line.split(": ", 1) for line in stream.strip().split("\n\n")[-1].split("\n"))
    return fields["event"], json.loads(fields["data"])


def test_a_stream_reports_that_its_walk_was_removed(stream: Callable[..., Future[str]], walk: UUID) -> None:
    following = stream()
    with transaction() as session:
        moderation.delete(session, walk)
    name, problem = last(following.result(20))
    assert (name, problem["type"], problem["status"]) == ("gone", "/problems/walk-not-found", 404)


def test_a_stream_reports_that_its_key_was_revoked(
    stream: Callable[..., Future[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LISTENING_POLL_SECONDS", 0.2)
    with transaction() as session:
        key, secret = api_keys.create(session, "a program")
        key_id = key.id
    following = stream(Authorization=f"Bearer {secret}")
    with transaction() as session:
        api_keys.revoke(session, key_id)
    name, problem = last(following.result(20))
    assert (name, problem["type"], problem["status"]) == ("error", "/problems/unauthorized", 401)


@contextmanager
def no_database() -> Iterator[None]:
    """Terminate all connections to the database, and refuse new ones."""
    address = make_url(settings().database_url)
    assert address.database
    elsewhere = address.set(drivername="postgresql", database="template1").render_as_string(hide_password=False)
    with psycopg.connect(elsewhere, autocommit=True) as other:
        other.execute(f"ALTER DATABASE {address.database} ALLOW_CONNECTIONS false")
        try:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [address.database]
            )
            yield
        finally:
            other.execute(f"ALTER DATABASE {address.database} ALLOW_CONNECTIONS true")


def test_the_loss_and_the_return_of_listen_are_each_logged_once(
    services: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "PAUSE_SECONDS", 0.01)
    tries: list[None] = []
    connect = session.connect

    async def connect_and_note() -> psycopg.AsyncConnection:
        tries.append(None)
        return await connect()

    monkeypatch.setattr(session, "connect", connect_and_note)

    async def run() -> None:
        async with listener.lifespan(), asyncio.timeout(60):
            for _ in range(2):
                while not listener.is_listening():
                    await asyncio.sleep(0.01)
                with no_database():
                    begun = len(tries)
                    while len(tries) < begun + 5:
                        await asyncio.sleep(0.01)
            while not listener.is_listening():
                await asyncio.sleep(0.01)

    caplog.set_level("INFO")
    asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if record.name == "api.live.listener"]
    lost, back = "LISTEN lost; falling back to polling", "listening again"
    assert [next(words for words in (lost, back, line) if words in line) for line in said] == 2 * [lost, back]
    assert all("cause" in line and "connection" in line for line in said[::2])


def test_a_stream_reports_that_the_database_is_down(stream: Callable[..., Future[str]], api: TestClient) -> None:
    following = stream()
    with no_database():
        name, problem = last(following.result(30))
    assert (name, problem["type"], problem["status"]) == ("error", "/problems/unavailable", 503)
    until(lambda: api.get("/readyz").status_code == 200)


def test_streams_and_long_polls_end_at_sigterm(walk: UUID) -> None:
    port = free_port()
    command = [sys.executable, "-m", "api"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PORT": str(port)}, stderr=subprocess.PIPE, text=True
    ) as server:
        url = f"http://127.0.0.1:{port}/v1/walks/{walk}"
        log: list[str] = []
        reader = threading.Thread(target=lambda: log.extend(server.stderr or ()))
        reader.start()
        until(lambda: any("Uvicorn running" in line for line in log))
        with ThreadPoolExecutor() as pool, httpx.Client(timeout=60) as client:
            etag = client.get(url).headers["etag"]
            held = pool.submit(client.get, url, headers={"Prefer": "wait=30", "If-None-Match": etag})
            with client.stream("GET", f"{url}/events") as answer:
                lines = answer.iter_lines()
                assert next(lines) == "event: walk"
                server.send_signal(signal.SIGTERM)
                assert "retry: 1000" in list(lines)
            assert held.result().status_code in {200, 304}
        server.wait(30)
        reader.join()
    assert not [line for line in log if "Traceback" in line or "graceful shutdown exceeded" in line]
