"""A long queue slows nothing down."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from momalisa.db.models import Walk
from momalisa.db.session import BEGIN, engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import celery_app, estimate, leases, results
from momalisa.settings import settings
from momalisa.walks import queries, service
from tests.claims import made_frames

QUEUED = 2000

FILLED = ("walks", "chunks", "frames")
"""The tables that a submission fills, in the order of their references."""


@pytest.fixture(scope="module")
def kept(_services: LocalStack, spec: Callable[..., WalkSpec]) -> Iterator[Walk]:
    """Two thousand walks in separate tables, so that only the first test waits for their creation."""
    database = create_engine(_services.variables["DATABASE_URL"])
    with Session(database, expire_on_commit=False) as session, session.begin():
        session.execute(text("TRUNCATE walks CASCADE"))  # left by the previous test
        for number in range(QUEUED):
            walk = service.create(session, spec(frames=24, seed=number), public=True, owner="ann")
        session.flush()
        session.execute(text("CREATE SCHEMA kept"))
        for name in FILLED:
            session.execute(text(f"CREATE TABLE kept.{name} AS TABLE {name}"))
    yield walk
    with database.begin() as connection:
        connection.execute(text("DROP SCHEMA kept CASCADE"))
    database.dispose()


@pytest.fixture
def two_thousand_walks(kept: Walk, services: LocalStack) -> Walk:
    """Walks of one owner, analyzed by PostgreSQL as in a table that is in use; returns the last."""
    with transaction() as session:
        for name in FILLED:
            session.execute(text(f"INSERT INTO {name} SELECT * FROM kept.{name}"))  # noqa: S608 - names of ours
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return kept


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect the SQL statements sent during the block, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement != BEGIN:
            sent.append((statement, parameters))

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", note)


def rows_read(statement: str, parameters: Any) -> int:
    """Return the number of rows that PostgreSQL reads to answer a statement."""
    with engine().connect() as connection, connection.begin() as undone:
        explained = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
        ).scalar_one()
        undone.rollback()
    plan = (explained if isinstance(explained, list) else json.loads(explained))[0]["Plan"]

    def read(node: dict[str, Any]) -> int:
        removed = node.get("Rows Removed by Filter", 0)
        own = (node["Actual Rows"] + removed) * node["Actual Loops"] if "Relation Name" in node else 0
        return int(own) + sum(read(child) for child in node.get("Plans", []))

    return read(plan)


def test_two_thousand_queued_walks_slow_nothing_down(
    two_thousand_walks: Walk, spec: Callable[..., WalkSpec]
) -> None:
    """What a poll, a claim and a submission cost does not depend on the length of the queue."""
    with statements() as polling, transaction() as session:
        queries.snapshot(session, two_thousand_walks.id, viewer=None)
        queries.get(session, two_thousand_walks.id, viewer=None)
    with statements() as claiming, transaction() as session:
        assert leases.claim(session, ChunkKind.RENDER, "here")
    with statements() as submitting, transaction() as session:
        service.create(session, spec(frames=4), public=True, owner="bob")
    for sent in (polling, claiming, submitting):
        for statement, parameters in sent:
            if statement.startswith(("SELECT", "UPDATE")):
                assert rows_read(statement, parameters) < 100, statement


def test_backlogs_are_summed_once_for_many_estimates(
    two_thousand_walks: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query of all queued chunks serves estimates of other walks, too, for a time in proportion to its cost."""
    monkeypatch.setattr(estimate, "CACHE_FACTOR", 1_000_000)
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
        assert claimed
        results.record_frames(session, claimed, made_frames(claimed))
        first = estimate.estimate(session, session.get_one(Walk, claimed.walk_id))
        assert first.eta_seconds is not None
    with transaction() as session:
        last = session.get_one(Walk, two_thousand_walks.id)
        with statements() as looking:
            ahead = estimate.estimate(session, last)
        each = last.frames_total // settings().batch_size
        assert ahead.queue_position == (QUEUED - 1) * each - 1
    for statement, parameters in looking:
        assert rows_read(statement, parameters) < 100, statement


def test_a_claim_does_not_scan_chunks_of_another_model(two_thousand_walks: Walk) -> None:
    """Neither do the queue statistics."""
    with transaction() as session:
        session.execute(
            text("UPDATE chunks SET model = 'another' WHERE walk_id <> :last"), {"last": two_thousand_walks.id}
        )
    with statements() as claiming, transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
        assert claimed
        assert claimed.walk_id == two_thousand_walks.id
    for statement, parameters in claiming:
        assert rows_read(statement, parameters) < 100, statement


def test_a_small_walk_does_not_wait_for_two_thousand(
    two_thousand_walks: Walk, spec: Callable[..., WalkSpec]
) -> None:
    with transaction() as session:
        small = service.create(session, spec(frames=12), public=True, owner="bob")
    claimed = []
    for _ in range(4):
        with transaction() as session:
            found = leases.claim(session, ChunkKind.RENDER, "here")
            assert found
            claimed.append((found.walk_id, found.number))
            results.record_frames(session, found, [])
    assert (small.id, 0) in claimed[:2]


def test_a_small_walk_finishes_among_two_thousand(two_thousand_walks: Walk, spec: Callable[..., WalkSpec]) -> None:
    """Its chunks alternate with those of the others."""
    with transaction() as session:
        small = service.create(session, spec(frames=24), public=True, owner="bob")
    claimed = []
    for _ in range(7):
        with transaction() as session:
            found = leases.claim(session, ChunkKind.RENDER, "here")
            assert found
            claimed.append((found.walk_id, found.number))
    assert [number for walk_id, number in claimed if walk_id == small.id] == [0, 1, 2]


def test_the_broker_stays_small(two_thousand_walks: Walk) -> None:
    for _ in range(3):
        reconciler.publish_missing()
    assert celery_app.count_messages(ChunkKind.RENDER) == settings().max_queued_messages < QUEUED
