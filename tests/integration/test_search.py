"""Searching 200,000 walks: results and cost."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, text

from momalisa.db.models import Base
from momalisa.db.session import engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import WalkStatus
from momalisa.local.stack import LocalStack
from momalisa.walks import queries
from tests.conftest import run_retention

WALKS = 200_000

LETTERS = "abCжé🦒猫' \\\"%_:&|!*"

MANY = r"""
INSERT INTO walks
    (id, status, owner, public, secret, spec, model, batch_size, frames_total, created_at, finished_at)
SELECT gen_random_uuid(), CASE WHEN n % 100 = 0 THEN 'canceled' ELSE 'succeeded' END, 'key:' || n % 1000,
    n % 7 > 0, 'a secret', jsonb_set(CAST(:spec AS jsonb), '{prompts}', jsonb_build_array(prompt, 'a dog')),
    'm', 8, 4, now() - interval '1 year' + n * interval '1 minute', now()
FROM generate_series(1, :walks) AS n,
    LATERAL (SELECT CASE n WHEN 1 THEN '🦒 "Жираф" \' WHEN 2 THEN '城堡' ELSE 'a cat ' || n % 1000 END AS prompt)
"""


@pytest.fixture
def hung(services: LocalStack, spec: Callable[..., WalkSpec]) -> None:
    """Many walks of 1,000 owners, none of them failed; rare words are in the oldest."""
    indexes = Base.metadata.tables["walks"].indexes
    with transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        for index in indexes:
            index.drop(session.connection())  # creating them afterwards is faster
        session.execute(text(MANY), {"spec": spec().model_dump_json(), "walks": WALKS})
        for index in indexes:
            index.create(session.connection())
        session.execute(text("ANALYZE walks"))


@contextmanager
def noted() -> Iterator[list[tuple[str, Any]]]:
    """Collect the queries on walks sent during the block, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "FROM walks" in statement:
            statements.append((statement, parameters))

    event.listen(engine(), "before_cursor_execute", note)
    yield statements
    event.remove(engine(), "before_cursor_execute", note)


def cost(statement: str, parameters: Any) -> tuple[int, list[str]]:
    """Return the number of pages that a query touches, and the tables that it scans completely."""

    def scanned(plan: dict[str, Any]) -> list[str]:
        below = [name for child in plan.get("Plans", ()) for name in scanned(child)]
        return below + ([plan["Relation Name"]] if plan["Node Type"] == "Seq Scan" else [])

    with engine().connect() as connection:
        explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        plan = explained.scalar_one()[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], scanned(plan)


def test_the_cost_of_a_search_does_not_depend_on_the_number_of_walks(hung: None, api: TestClient) -> None:
    for sought, number in (
        ({}, 20),
        ({"q": "cat"}, 20),
        ({"q": "a"}, 20),
        ({"q": "CAT 777"}, 20),
        ({"q": "zzzqqq"}, 0),
        ({"q": "%" * 100}, 0),
        ({"q": "\\" * 100}, 0),
        ({"q": "_"}, 0),
        ({"q": "''"}, 0),
        ({"q": "a dog a cat"}, 0),  # all its trigrams are in every walk
        ({"q": "жИРАФ"}, 1),
        ({"q": '🦒 "жираф" \\'}, 1),
        ({"q": "🦒"}, 1),
        ({"q": "堡"}, 1),
        ({"status": "canceled"}, 20),
        ({"status": "failed"}, 0),
        ({"status": "failed", "q": "cat"}, 0),
    ):
        with noted() as statements:
            assert len(api.get("/v1/walks", params=sought).json()["walks"]) == number, sought
        expect_cheap(statements, sought)
    for status, word, number in (
        (None, "", 20),
        (None, "cat", 20),
        (None, "zzzqqq", 0),
        (WalkStatus.FAILED, "", 0),
        (WalkStatus.FAILED, "cat", 0),
    ):
        with noted() as statements, transaction() as session:
            found = queries.list_walks(
                session, limit=20, before=None, status=status, viewer="key:7", owner="key:7", text=word
            )
        assert len(found) == number
        expect_cheap(statements, status, word)
    with noted() as statements:
        run_retention()
    assert len(statements) > 2
    expect_cheap(statements, "what is past")


def expect_cheap(statements: list[tuple[str, Any]], *sought: object) -> None:
    assert statements
    for query in statements:
        pages, scanned = cost(*query)
        assert (scanned, pages < 1000) == ([], True), (sought, pages)


@given(prompt=st.text(LETTERS, min_size=1), other=st.text(LETTERS), data=st.data())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_in_a_prompt_is_found(services: LocalStack, prompt: str, other: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(prompt) - 1))
    word = prompt[start : data.draw(st.integers(start + 1, start + 9))]
    found = text("SELECT walk_grams(CAST(:prompts AS jsonb)) @@ walk_query(:word)")
    with transaction() as session:
        both = json.dumps([other, prompt])
        assert session.execute(found, {"prompts": both, "word": word.upper()}).scalar_one()
        alone = session.execute(found, {"prompts": json.dumps([other]), "word": word}).scalar_one()
        assert not alone or word[:3].lower() in other.lower()
