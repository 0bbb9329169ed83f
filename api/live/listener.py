"""Hearing at once of walks that change, from PostgreSQL, by one connection of this process for all who wait.

What is heard is a hint to look again. Those who wait must look from time to time all the same: nothing is heard
while the connection is broken, or through a pooler that hands it to others after each transaction.
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
"""The channel on which a process that wants to listen tries whether it hears itself."""

TRIAL_SECONDS = 2
"""How long it waits to hear itself."""

HEARING_LOOK_SECONDS = 10
"""Time between two looks while changes are heard of: for what is not announced, such as keys that are revoked."""

DEAF_LOOK_SECONDS = 0.5
"""Time between two looks while nothing is heard."""

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
    """Return an event that is set whenever a walk has changed, until it is ignored again."""
    event = _attended[str(walk_id)] = asyncio.Event()
    return event


def unsubscribe(walk_id: UUID) -> None:
    """Set the event of a walk no more."""
    del _attended[str(walk_id)]


def look_seconds() -> float:
    """Return how long to wait for news before another look."""
    return HEARING_LOOK_SECONDS if _hearing else DEAF_LOOK_SECONDS


def _hear(hearing: bool) -> None:
    """Have all who wait look now, who may have missed something or will from now on."""
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
    """Try whether a connection hears what another one says.

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
