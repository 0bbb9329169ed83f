"""LISTEN for changes of walks, on one PostgreSQL connection per process.

A notification is a hint to query again. Waiters also poll from time to time: no notification arrives while the
connection is broken, or through a pooler that reassigns connections after each transaction.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Never
from uuid import UUID, uuid4

import psycopg

from momalisa.db import notifications, session
from momalisa.telemetry.logging import logger

log = logger(__name__)

PAUSE_SECONDS = 1
"""Time between two tries to listen."""

TRIAL = "trial"
"""The channel on which a process checks that it receives its own notifications."""

TRIAL_SECONDS = 2
"""How long it waits for its own notification."""

HEARING_LOOK_SECONDS = 10
"""Polling interval while LISTEN works: for what is not announced, such as revoked keys."""

DEAF_LOOK_SECONDS = 0.5
"""Polling interval while LISTEN does not work."""

_hearing = False

_attended: dict[str, asyncio.Event] = {}
"""By the id of the walk."""


@asynccontextmanager
async def listening() -> AsyncIterator[None]:
    """Listen in the background for the length of the block, as soon as it can be done."""
    listener = asyncio.create_task(_listen())
    try:
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


def subscribe(walk_id: UUID) -> asyncio.Event:
    """Return an event that is set whenever a walk changes, until `unsubscribe`."""
    event = _attended[str(walk_id)] = asyncio.Event()
    return event


def unsubscribe(walk_id: UUID) -> None:
    """Stop setting the event of a walk."""
    del _attended[str(walk_id)]


def look_seconds() -> float:
    """Return how long to wait for a notification before polling, in seconds."""
    return HEARING_LOOK_SECONDS if _hearing else DEAF_LOOK_SECONDS


def _hear(hearing: bool) -> None:
    """Wake all waiters: they may have missed a notification, or will from now on."""
    global _hearing  # noqa: PLW0603
    _hearing = hearing
    for event in _attended.values():
        event.set()


async def _listen() -> Never:
    lost = False
    while True:
        reason = "the connection ended"
        try:
            async with await session.connect() as connection:
                if await _hears(connection):
                    await connection.execute(f"LISTEN {notifications.CHANNEL}")
                    if lost:
                        log.info("listening again")
                        lost = False
                    _hear(True)
                    try:
                        async for change in connection.notifies():
                            if event := _attended.get(change.payload):
                                event.set()
                    finally:
                        _hear(False)
                else:
                    reason = "a pooler is between that hands connections on after each transaction"
        except psycopg.Error as error:
            reason = str(error).strip()
        if not lost:
            log.warning("LISTEN lost; falling back to polling", cause=reason)
            lost = True
        await asyncio.sleep(PAUSE_SECONDS)


async def _hears(connection: psycopg.AsyncConnection) -> bool:
    """Return whether a connection receives the notifications of another one.

    It is tried on a channel of its own, since a pooler lets one listen on a connection that others use afterwards.
    """
    await connection.execute(f"LISTEN {TRIAL}")
    said = uuid4().hex
    async with await session.connect() as other:
        await other.execute("SELECT pg_notify(%s, %s)", (TRIAL, said))
    async with aclosing(connection.notifies(timeout=TRIAL_SECONDS)) as heard:
        hears = False
        async for change in heard:
            if hears := change.payload == said:
                break
    await connection.execute(f"UNLISTEN {TRIAL}")
    return hears
