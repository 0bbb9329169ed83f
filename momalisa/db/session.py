"""Connections to PostgreSQL, and the only way to open a transaction."""

import time
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
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from momalisa.errors import StoreBusyError, StoreUnavailableError
from momalisa.settings import settings
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import logger
from momalisa.telemetry.metrics import Metric

log = logger(__name__)

PROMPTLY: dict[str, Any] = {
    "connect_timeout": 2,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
"""Connection options that detect a dead database soon; in seconds unless noted."""

BEGIN = (
    "BEGIN; SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '5s';"
    " SET LOCAL idle_in_transaction_session_timeout = '30s'"
)
"""Starts a transaction with its timeouts, in one round trip.

They are set for the transaction and not for the connection: a pooler such as PgBouncer refuses connection options,
and gives connections to other clients after each transaction.
"""

ABORTED = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
"""Errors of a statement that PostgreSQL aborts while it keeps serving others."""

MAX_LOGGED_STATEMENT = 1000
"""Characters of a statement that are logged; parameters are never logged."""


class _TimedPool(QueuePool):
    """Measures how long a connection is waited for, also in vain, and including the time to open or check it."""

    __module__ = "sqlalchemy.pool"  # so that its logger is as quiet as that of other pools

    def connect(self) -> PoolProxiedConnection:
        started = time.monotonic()
        try:
            return super().connect()
        finally:
            metrics.record(metrics.CONNECTION_SECONDS, time.monotonic() - started)


@cache
def engine() -> Engine:
    """Return the engine of this process; created at the first call, so never shared across a fork."""
    made = create_engine(
        settings().database_url,
        isolation_level="AUTOCOMMIT",  # of the driver: `_begin` starts transactions
        poolclass=_TimedPool,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=2,
        # A pooler may give the next transaction another connection, without the prepared statements.
        connect_args={"prepare_threshold": None, **PROMPTLY},
    )
    event.listen(made, "begin", _begin)
    return made


def _begin(connection: Connection) -> None:
    """Start a transaction, unless the connection was requested in autocommit mode."""
    if "isolation_level" not in connection.get_execution_options():
        connection.exec_driver_sql(BEGIN)


async def connect() -> psycopg.AsyncConnection:
    """Return a connection in autocommit mode, outside of the pool, for LISTEN.

    Raises:
        psycopg.Error: if PostgreSQL cannot be reached.
    """
    address = make_url(settings().database_url).set(drivername="postgresql")
    return await psycopg.AsyncConnection.connect(
        address.render_as_string(hide_password=False), autocommit=True, **PROMPTLY
    )


_open = ContextVar("open", default=False)
"""Whether a transaction is open in this context."""


def refuse_open_transaction() -> None:
    """Assert that no transaction is open, before a call to another service.

    A slow service would otherwise hold a connection of the pool, and locks.
    """
    assert not _open.get(), "Other services must be called before or after a transaction, not within it."


@contextmanager
def transaction() -> Iterator[Session]:
    """Open a session that commits when the block ends, and rolls back when it raises.

    Raises:
        StoreBusyError: if a statement or lock timed out, or was in a deadlock.
        StoreUnavailableError: if PostgreSQL cannot be reached, or the connection broke. Nothing was committed,
            unless it broke during the commit: then the outcome is unknown, and a retry must be fenced.
    """
    before = _open.set(True)
    try:
        with Session(engine(), expire_on_commit=False) as session, session.begin():
            yield session
    except OperationalError as error:
        cause = str(error.orig).strip()
        if isinstance(error.orig, ABORTED):
            log.warning("query aborted", cause=cause, statement=(error.statement or "")[:MAX_LOGGED_STATEMENT])
            raise StoreBusyError("The database is too busy; try again later.") from error
        log.warning("database failed", cause=cause)
        raise StoreUnavailableError("The database is unavailable; try again later.") from error
    except PoolTimeoutError as error:
        log.warning("database failed", cause=str(error))
        raise StoreUnavailableError("The database is unavailable; try again later.") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise StoreUnavailableError("The connection to the database broke; try again later.") from error
    finally:
        _open.reset(before)


_RECORDS = "metrics"
"""Where a session keeps what is recorded after its commit."""


def record_after_commit(session: Session, metric: Metric, value: float = 1, **labels: str) -> None:
    """Record a metric once the transaction of a session is committed (`metrics.record`)."""
    session.info.setdefault(_RECORDS, []).append((metric, value, labels))


@event.listens_for(Session, "after_commit")
def _record_after_commit(session: Session) -> None:
    for metric, value, labels in session.info.pop(_RECORDS, ()):
        metrics.record(metric, value, **labels)


def rowcount(result: Result[Any]) -> int:
    """Return the number of rows that a statement changed."""
    return cast("CursorResult[Any]", result).rowcount
