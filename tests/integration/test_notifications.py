"""Notifications of changes follow the commit; no transaction waits for them, and nothing depends on them."""

import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import make_url, text, update

from momalisa.db import notifications
from momalisa.db.models import Walk
from momalisa.db.session import engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ROOT, settings
from momalisa.walks import service

CLIENTS, COMMITS = 32, 40


@pytest.fixture
def walks(services: object, spec: Callable[..., WalkSpec]) -> list[UUID]:
    with transaction() as session:
        return [service.create(session, spec(frames=2), public=True, owner="ann").id for _ in range(CLIENTS)]


def connect() -> psycopg.Connection:
    address = make_url(settings().database_url).set(drivername="postgresql")
    return psycopg.connect(address.render_as_string(hide_password=False), autocommit=True)


@contextmanager
def heard() -> Iterator[Callable[[int], list[str]]]:
    """Listen; yields a function that returns the next notifications."""
    with connect() as listener:
        listener.execute(f"LISTEN {notifications.CHANNEL}")
        yield lambda number: [it.payload for it in listener.notifies(timeout=20, stop_after=number)][:number]


def change(walk: UUID) -> None:
    with transaction() as session:
        session.execute(update(Walk).where(Walk.id == walk).values(notifications.changed(session, walk)))


def test_commits_do_not_wait_for_notifications_of_others(walks: list[UUID]) -> None:
    over = threading.Event()
    waits: set[str] = set()

    def look() -> None:
        with connect() as connection:
            while not over.is_set():
                found = connection.execute(
                    "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'object'"
                )
                waits.update(query for (query,) in found)

    def commit(walk: UUID) -> None:
        for _ in range(COMMITS):
            change(walk)

    with heard() as next_notices, ThreadPoolExecutor(CLIENTS + 1) as pool:
        looks = pool.submit(look)
        list(pool.map(commit, walks[:20]))  # as many as the pool has connections
        over.set()
        looks.result()
        assert set(next_notices(20)) <= set(map(str, walks))
    assert not waits


def test_a_notification_follows_the_commit_but_not_a_rollback(walks: list[UUID]) -> None:
    first, second = walks[:2]
    with heard() as next_notices:
        with contextlib.suppress(ZeroDivisionError), transaction() as session:
            session.execute(update(Walk).where(Walk.id == first).values(notifications.changed(session, first)))
            raise ZeroDivisionError
        change(second)
        assert next_notices(1) == [str(second)]


def test_a_forked_process_sends_its_own_notifications(walks: list[UUID]) -> None:
    first, second = walks[:2]

    def child() -> None:
        engine.cache_clear()
        change(second)
        time.sleep(60)  # it is killed from outside

    with heard() as next_notices:
        change(first)
        assert next_notices(1) == [str(first)]
        forked = multiprocessing.get_context("fork").Process(target=child)
        forked.start()
        try:
            assert next_notices(1) == [str(second)]
        finally:
            forked.kill()
            forked.join()


def test_a_process_sends_its_notifications_before_it_exits(walks: list[UUID]) -> None:
    with heard() as next_notices:
        command = [sys.executable, "-m", "momalisa", "moderate", "hide", str(walks[0])]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ)
        assert next_notices(1) == [str(walks[0])]


def test_a_broken_connection_loses_only_a_notification(walks: list[UUID]) -> None:
    with heard() as next_notices:
        change(walks[0])
        assert next_notices(1) == [str(walks[0])]
        with transaction() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND query NOT LIKE 'LISTEN%'"
                )
            )
        change(walks[1])
        assert next_notices(1) == [str(walks[1])]


def test_every_visible_change_is_notified() -> None:
    bumps = re.compile(r"[Rr]evision\s*\+|values\([^)]*\brevision=|\"revision\":")
    found = {path.name for path in (ROOT / "momalisa").rglob("*.py") if bumps.search(path.read_text())}
    assert found == {"notifications.py"}
