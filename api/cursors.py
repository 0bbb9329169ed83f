"""Cursors: where a page of walks ended, opaque to clients and signed, so that only ours are taken."""

import base64
import json
from datetime import datetime
from uuid import UUID

from api import signing
from momalisa.db.models import Walk
from momalisa.errors import InvalidFieldError

_PURPOSE = "cursor"

MAX_CURSOR = 200
"""Characters."""

Position = tuple[datetime, UUID]
"""When a walk was created, and its id: what the gallery is sorted by."""


def encode(walk: Walk) -> str:
    """Return the cursor of the page that begins after a walk."""
    place = json.dumps([walk.created_at.isoformat(), str(walk.id)])
    return signing.signed(base64.urlsafe_b64encode(place.encode()).decode().rstrip("="), _PURPOSE)


def decode(cursor: str) -> Position:
    """Return the walk after which the page of a cursor begins.

    Raises:
        InvalidFieldError: if it is not one of ours.
    """
    encoded = signing.verified(cursor, _PURPOSE)
    if encoded is None:
        raise InvalidFieldError("cursor", "must be the `next_cursor` of another page, unchanged")
    created_at, walk_id = json.loads(base64.urlsafe_b64decode(encoded + "=="))
    return datetime.fromisoformat(created_at), UUID(walk_id)
