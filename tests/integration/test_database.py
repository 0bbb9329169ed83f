"""Database failures: clients learn that it is busy or unavailable, operators learn why."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, make_url, select, text

from momalisa.db.session import engine, transaction
from momalisa.errors import StoreBusyError, StoreUnavailableError
from momalisa.local.stack import LocalStack
from tests.conftest import clear_caches

pytestmark = pytest.mark.usefixtures("api")


def execute(*statements: str) -> None:
    with transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def test_timeouts_apply_to_the_transaction_only() -> None:
    limits = text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
    with transaction() as session:
        assert session.execute(limits).one() == ("10s", "5s")
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.execute(limits).one() == ("0", "0")


def test_a_query_that_times_out_is_not_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoreBusyError):
        execute("SET LOCAL statement_timeout = '10ms'", "SELECT pg_sleep(60)")
    assert "query aborted" in caplog.text
    assert "SELECT pg_sleep(60)" in caplog.text


def test_a_lock_timeout_is_not_an_outage() -> None:
    with transaction() as holder:
        holder.execute(text("LOCK TABLE walks"))
        with pytest.raises(StoreBusyError):
            execute("SET LOCAL lock_timeout = '10ms'", "LOCK TABLE walks")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": {}, "host": "127.0.0.1", "port": 1}, "refused"),
        ({"username": "a-stranger"}, 'role "a-stranger" does not exist'),
        ({"database": "elsewhere"}, 'database "elsewhere" does not exist'),
    ],
)
def test_the_cause_of_a_database_failure_is_logged(
    services: LocalStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    words: str,
) -> None:
    url = make_url(services.variables["DATABASE_URL"]).set(**change)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    clear_caches()
    with pytest.raises(StoreUnavailableError) as failed:
        execute("SELECT 1")
    assert not isinstance(failed.value, StoreBusyError)
    assert words in caplog.text


def test_the_victim_of_a_deadlock_may_retry() -> None:
    both_have_one = threading.Barrier(2)

    def lock(first: int, second: int) -> bool:
        """Take two locks; return whether the first attempt succeeded."""
        try:
            with transaction() as session:
                session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
                session.execute(select(func.pg_advisory_xact_lock(first)))
                both_have_one.wait(10)
                session.execute(select(func.pg_advisory_xact_lock(second)))
        except StoreBusyError:
            execute(f"SELECT pg_advisory_xact_lock({first}), pg_advisory_xact_lock({second})")
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lock, (1, 2), (2, 1))) == [False, True]
