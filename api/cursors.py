"""Cursors: where a page of walks ended; opaque to clients, and signed."""

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
"""Creation time and id of a walk: the sort key of the gallery."""


def encode(walk: Walk) -> str:
    """Return the cursor of the page that follows a walk."""
    cursor = signing.serializer(_PURPOSE).dumps([walk.created_at.isoformat(), str(walk.id)])
    assert isinstance(cursor, str)
    return cursor


def decode(cursor: str) -> Position:
    """Return the position after which the page begins.

    Raises:
        InvalidFieldError: if the cursor was not signed by this site.
    """
    try:
        created_at, walk_id = signing.serializer(_PURPOSE).loads(cursor)
    except BadData:
        raise InvalidFieldError("cursor", "must be the unchanged `next_cursor` of a previous page") from None
    return datetime.fromisoformat(created_at), UUID(walk_id)
