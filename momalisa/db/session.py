"""The connections to PostgreSQL, and the one way to open a transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, CursorResult, Engine, Result, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from momalisa.errors import StoreBusyError, StoreUnavailableError
from momalisa.settings import settings
from momalisa.telemetry.logging import logger

log = logger(__name__)

PROMPTLY: dict[str, Any] = {
    "connect_timeout": 2,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
"""How the client library notices soon that the database is away; seconds, where nothing else is said."""


BEGIN = (
    "BEGIN; SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '5s';"
    " SET LOCAL idle_in_transaction_session_timeout = '30s'"
)
"""How each transaction begins, in one round trip.

Its limits are its own, and not the connection's: a pooler such as PgBouncer refuses options at the start of a
connection, and hands connections on after each transaction.
"""

GIVEN_UP = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
"""What PostgreSQL raises on queries that it gives up; it serves others."""

MOST_STATEMENT = 1000
"""Characters of a statement that are logged; its values never are."""


@cache
def engine() -> Engine:
    """Return the engine of this process; made at the first call, so never shared across a fork."""
    made = create_engine(
        settings().database_url,
        isolation_level="AUTOCOMMIT",  # of the driver, since `_begin` begins each transaction
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=2,
        # What is prepared on one connection of a pooler is not on the next.
        connect_args={"prepare_threshold": None, **PROMPTLY},
    )
    event.listen(made, "begin", _begin)
    return made


def _begin(connection: Connection) -> None:
    """Begin a transaction, unless somebody asked for a connection without any."""
    if "isolation_level" not in connection.get_execution_options():
        connection.exec_driver_sql(BEGIN)


async def connect() -> psycopg.AsyncConnection:
    """Return a connection outside of the pool, without transactions, for one that stays and listens.

    Raises:
        psycopg.Error: if PostgreSQL cannot be reached.
    """
    address = make_url(settings().database_url).set(drivername="postgresql")
    return await psycopg.AsyncConnection.connect(
        address.render_as_string(hide_password=False), autocommit=True, **PROMPTLY
    )


_open = ContextVar("open", default=False)
"""Whether a transaction is open here."""


def refuse_open_transaction() -> None:
    """Refuse to wait for another service while a transaction is open here.

    A connection of the pool would wait with it, and locks: one slow service would hold up everything else.
    """
    assert not _open.get(), "Ask other services before a transaction begins, or after it has ended."


@contextmanager
def transaction() -> Iterator[Session]:
    """Open a session whose work is committed when the block ends, and rolled back when it raises.

    Raises:
        StoreBusyError: if a query took too long, waited too long for a lock, or was in a deadlock.
        StoreUnavailableError: if PostgreSQL cannot be reached, or broke off. Nothing was committed, unless the
            connection broke during the commit itself: then nobody can know, and whoever retries must be fenced.
    """
    before = _open.set(True)
    try:
        with Session(engine(), expire_on_commit=False) as session, session.begin():
            yield session
    except OperationalError as error:
        cause = str(error.orig).strip()
        if isinstance(error.orig, GIVEN_UP):
            log.warning("query given up", cause=cause, statement=(error.statement or "")[:MOST_STATEMENT])
            raise StoreBusyError("The database is too busy just now; try again soon.") from error
        log.warning("database failed", cause=cause)
        raise StoreUnavailableError("The database cannot serve just now; try again soon.") from error
    except PoolTimeoutError as error:
        log.warning("database failed", cause=str(error))
        raise StoreUnavailableError("The database cannot serve just now; try again soon.") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise StoreUnavailableError("The connection to the database broke; try again soon.") from error
    finally:
        _open.reset(before)


def rowcount(result: Result[Any]) -> int:
    """Return the number of rows that a statement changed."""
    return cast("CursorResult[Any]", result).rowcount
