"""LISTEN for changes of walks, on one PostgreSQL connection per process.

A notification is a hint to query again. Waiters also poll: no notification arrives while the connection is broken,
or through a pooler that reassigns connections after each transaction.
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
"""Pause between two attempts to listen."""

PROBE_CHANNEL = "probe"
"""The channel on which a process checks that it receives its own notifications."""

PROBE_SECONDS = 2
"""How long it waits for its own notification."""

LISTENING_POLL_SECONDS = 10
"""Polling interval while LISTEN works: for changes without a notification, such as revoked keys."""

FALLBACK_POLL_SECONDS = 0.5
"""Polling interval while LISTEN does not work."""

_listening = False

events: dict[str, asyncio.Event] = {}
"""By walk id."""


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Listen in the background during the block, as soon as PostgreSQL can be reached."""
    listener = asyncio.create_task(_listen())
    try:
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


def subscribe(walk_id: UUID) -> asyncio.Event:
    """Return an event that is set whenever a walk changes, until `unsubscribe`."""
    event = events[str(walk_id)] = asyncio.Event()
    return event


def unsubscribe(walk_id: UUID) -> None:
    """Stop setting the event of a walk."""
    del events[str(walk_id)]


def poll_seconds() -> float:
    """Return how long to wait for a notification before polling, in seconds."""
    return LISTENING_POLL_SECONDS if _listening else FALLBACK_POLL_SECONDS


def is_listening() -> bool:
    """Return whether LISTEN works at present."""
    return _listening


def _set_listening(listening: bool) -> None:
    """Record whether LISTEN works, and wake all waiters, which may have missed a notification."""
    global _listening  # noqa: PLW0603
    _listening = listening
    for event in events.values():
        event.set()


async def _listen() -> Never:
    lost = False
    while True:
        reason = "the connection ended"
        try:
            async with await session.connect() as connection:
                if await _receives(connection):
                    await connection.execute(f"LISTEN {notifications.CHANNEL}")
                    if lost:
                        log.info("listening again")
                        lost = False
                    _set_listening(True)
                    try:
                        async for change in connection.notifies():
                            if event := events.get(change.payload):
                                event.set()
                    finally:
                        _set_listening(False)
                else:
                    reason = "a pooler reassigns connections after each transaction"
        except psycopg.Error as error:
            reason = str(error).strip()
        if not lost:
            log.warning("LISTEN lost; falling back to polling", cause=reason)
            lost = True
        await asyncio.sleep(PAUSE_SECONDS)


async def _receives(connection: psycopg.AsyncConnection) -> bool:
    """Return whether a connection receives the notifications of another one.

    This uses a channel of its own, because a pooler would run LISTEN on a connection that others use afterwards.
    """
    await connection.execute(f"LISTEN {PROBE_CHANNEL}")
    sent = uuid4().hex
    async with await session.connect() as other:
        await other.execute("SELECT pg_notify(%s, %s)", (PROBE_CHANNEL, sent))
    async with aclosing(connection.notifies(timeout=PROBE_SECONDS)) as notifications_:
        received = False
        async for change in notifications_:
            if received := change.payload == sent:
                break
    await connection.execute(f"UNLISTEN {PROBE_CHANNEL}")
    return received
