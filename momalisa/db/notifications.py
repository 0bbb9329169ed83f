"""Notifications of changed walks, by NOTIFY, for the API processes in which clients wait.

PostgreSQL serializes the commits of transactions that notify. So transactions do not notify themselves: after the
commit, a thread sends the notifications of all transactions of the process together. A notification is a hint: if
one is lost, clients wait a little longer, since waiters also poll.
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
"""Channel of the ids of changed walks."""

PAUSE_SECONDS = 0.01
"""Pause of a process between two batches of notifications."""

LAST_SECONDS = 1
"""Maximum time that a process waits at exit until its last notifications are sent."""

_SEND = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, walk) FROM unnest(%s::text[]) AS walk"


def changed(session: Session, *walk_ids: UUID) -> dict[str, Any]:
    """Return the values that an UPDATE of walks must set besides the change: the next revision.

    After the commit, notifications wake those who wait for these walks.
    """
    session.info.setdefault(CHANNEL, set()).update(map(str, walk_ids))
    return {"revision": Walk.revision + 1}


@event.listens_for(Session, "after_commit")
def _send_after_commit(session: Session) -> None:
    if walks := session.info.pop(CHANNEL, None):
        _sender().send(walks)


class _Sender:
    """Sends the notifications of this process, each batch by a connection from the pool."""

    def __init__(self) -> None:
        self._walks: set[str] = set()
        self._change = threading.Condition()
        self._idle = True
        threading.Thread(target=self._run, name="notifications", daemon=True).start()

    def send(self, walks: set[str]) -> None:
        """Queue notifications."""
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
                log.debug("notifications not sent", walks=len(walks), reason=str(error))
            time.sleep(PAUSE_SECONDS)

    def finish(self) -> None:
        """Wait until everything is sent or dropped, at most LAST_SECONDS."""
        with self._change:
            self._change.wait_for(lambda: self._idle and not self._walks, LAST_SECONDS)


def begin() -> None:
    """Start the thread that sends notifications now, if starting it later might hang."""
    _sender()


@cache
def _sender() -> _Sender:
    """Return the sender of this process; created at the first call, so never shared across a fork."""
    return _Sender()


os.register_at_fork(after_in_child=_sender.cache_clear)


@atexit.register
def finish() -> None:
    """Wait until this process has sent its notifications, at most LAST_SECONDS."""
    if _sender.cache_info().currsize:
        _sender().finish()


def _send(walks: set[str]) -> None:
    with session.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_SEND, (CHANNEL, sorted(walks)))  # one round trip
