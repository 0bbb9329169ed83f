"""Hearing at once of walks that change, from PostgreSQL, by one connection of this process for all who wait.

What is heard is a hint to look again. Whoever waits must look from time to time all the same: nothing is heard
while the connection is broken, or through a pooler that hands it to others after each transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Never
from uuid import UUID

import psycopg

from momalisa import database, notices
from momalisa.log import logger

log = logger(__name__)

PAUSE_SECONDS = 1
"""Time between two tries to listen."""

_waiting: dict[str, set[asyncio.Event]] = {}
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


@contextmanager
def heard(walk_id: UUID) -> Iterator[asyncio.Event]:
    """Give an event that is set whenever a walk has changed."""
    event, name = asyncio.Event(), str(walk_id)
    _waiting.setdefault(name, set()).add(event)
    try:
        yield event
    finally:
        _waiting[name].remove(event)
        if not _waiting[name]:
            del _waiting[name]


async def _listen() -> Never:
    while True:
        with suppress(psycopg.Error):
            async with await database.connect() as connection:
                await connection.execute(f"LISTEN {notices.CHANNEL}")
                async for change in connection.notifies():
                    for event in _waiting.get(change.payload, ()):
                        event.set()
        log.warning("not listening; whoever waits looks from time to time")
        await asyncio.sleep(PAUSE_SECONDS)
