"""Telling of walks that change, after the commit, to the API processes that somebody waits at.

PostgreSQL commits what sends notices one after another, so no transaction that does other work sends any: each
process sends for all of its transactions together, a few times a second at most where much changes. A notice is a
hint; one that is lost costs time only, since those who wait also look from time to time.
"""

import atexit
import os
import threading
import time
from functools import cache
from typing import Any, Never
from uuid import UUID

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from momalisa.db import session
from momalisa.db.models import Walk
from momalisa.telemetry.logging import logger

log = logger(__name__)

CHANNEL = "walks"
"""Where PostgreSQL tells the id of each walk that has changed."""

PAUSE_SECONDS = 0.01
"""Pause between two sendings of a process; what changes meanwhile is sent together."""

LAST_SECONDS = 1
"""How long a process that ends waits for its last notices to be sent."""

_SEND = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, walk) FROM unnest(%s::text[]) AS walk"


def changed(session: Session, *walk_ids: UUID) -> dict[str, Any]:
    """Return what an UPDATE sets on walks that change for those who see them, besides the change itself.

    Their revision grows, and once the transaction is committed, notices have those look who wait for one of them.
    """
    session.info.setdefault(CHANNEL, set()).update(map(str, walk_ids))
    return {"revision": Walk.revision + 1}


@event.listens_for(Session, "after_commit")
def _tell(session: Session) -> None:
    if walks := session.info.pop(CHANNEL, None):
        _sender().send(walks)


class _Sender:
    """Sends the notices of this process, by a connection of the pool that it takes for a moment."""

    def __init__(self) -> None:
        self._walks: set[str] = set()
        self._change = threading.Condition()
        self._idle = True
        threading.Thread(target=self._run, name="notices", daemon=True).start()

    def send(self, walks: set[str]) -> None:
        """Have notices sent soon."""
        with self._change:
            self._walks |= walks
            self._change.notify_all()

    def _run(self) -> Never:
        while True:
            with self._change:
                self._idle = not self._walks
                self._change.notify_all()
                self._change.wait_for(lambda: self._walks)
                self._idle = False
                walks, self._walks = self._walks, set()
            try:
                _send(walks)
            except (SQLAlchemyError, psycopg.Error) as error:
                log.debug("notices not sent", walks=len(walks), reason=str(error))
            time.sleep(PAUSE_SECONDS)

    def finish(self) -> None:
        """Wait until all is sent, or dropped, but not for long."""
        with self._change:
            self._change.wait_for(lambda: self._idle and not self._walks, LAST_SECONDS)


def begin() -> None:
    """Start the thread that sends notices, in a process where a thread may not start when it is needed."""
    _sender()


@cache
def _sender() -> _Sender:
    """Return the sender of this process; made at the first notice, so never shared across a fork."""
    return _Sender()


os.register_at_fork(after_in_child=_sender.cache_clear)


@atexit.register
def finish() -> None:
    """Wait until this process has sent its notices, but not for long."""
    if _sender.cache_info().currsize:
        _sender().finish()


def _send(walks: set[str]) -> None:
    with session.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_SEND, (CHANNEL, sorted(walks)))  # one statement in place of three
