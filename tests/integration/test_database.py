"""What is said when the database fails: to clients that it is busy or away, to operators why."""

import pytest
from sqlalchemy import text

from momalisa.database import engine, transaction
from momalisa.errors import StoreBusyError, StoreUnavailableError
from tests.conftest import forget

pytestmark = pytest.mark.usefixtures("api")


def execute(*statements: str) -> None:
    with transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def test_a_transaction_has_its_limits_and_leaves_none_behind() -> None:
    limits = text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
    with transaction() as session:
        assert session.execute(limits).one() == ("10s", "5s")
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.execute(limits).one() == ("0", "0")


def test_a_query_that_takes_too_long_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoreBusyError):
        execute("SET LOCAL statement_timeout = '10ms'", "SELECT pg_sleep(60)")
    assert "query given up" in caplog.text
    assert "SELECT pg_sleep(60)" in caplog.text


def test_a_lock_that_is_held_too_long_is_no_outage() -> None:
    with transaction() as holder:
        holder.execute(text("LOCK TABLE walks"))
        with pytest.raises(StoreBusyError):
            execute("SET LOCAL lock_timeout = '10ms'", "LOCK TABLE walks")


def test_why_the_database_cannot_serve_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://momalisa@127.0.0.1:1/momalisa")
    forget()
    with pytest.raises(StoreUnavailableError) as failed:
        execute("SELECT 1")
    assert not isinstance(failed.value, StoreBusyError)
    assert "refused" in caplog.text
