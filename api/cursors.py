"""Cursors: where a page of walks ended, opaque to clients and signed."""

from datetime import datetime
from uuid import UUID

from itsdangerous import BadData

from api import signing
from momalisa.db.models import Walk
from momalisa.errors import InvalidFieldError

_PURPOSE = "cursor"

MAX_CURSOR = 200
"""Characters."""

Position = tuple[datetime, UUID]
"""When a walk was created, and its id: the sort key of the gallery."""


def encode(walk: Walk) -> str:
    """Return the cursor of the page that begins after a walk."""
    cursor = signing.serializer(_PURPOSE).dumps([walk.created_at.isoformat(), str(walk.id)])
    assert isinstance(cursor, str)
    return cursor


def decode(cursor: str) -> Position:
    """Return the position after which the page of a cursor begins.

    Raises:
        InvalidFieldError: if we did not sign the cursor.
    """
    try:
        created_at, walk_id = signing.serializer(_PURPOSE).loads(cursor)
    except BadData:
        raise InvalidFieldError("cursor", "must be the `next_cursor` of another page, unchanged") from None
    return datetime.fromisoformat(created_at), UUID(walk_id)
