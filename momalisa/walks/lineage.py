"""What a walk started from, and what started from it."""

from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from momalisa.db.models import Walk
from momalisa.walks import queries

MOST_CHILDREN = 6
"""Walks that a walk's page names of those that started from it."""


class Relative(BaseModel):
    """A walk in the lineage of another."""

    id: UUID
    prompts: tuple[str, ...]
    frames: int


class Lineage(BaseModel):
    """The relatives of a walk that a viewer may see."""

    parent: Relative | None
    children: list[Relative]
    """The newest, at most MOST_CHILDREN."""
    more: bool
    """Whether there are more children."""


def of(session: Session, walk: Walk, *, viewer: str | None) -> Lineage:
    """Return the lineage of a walk that the viewer may see (`queries.get`)."""
    parent = None if walk.source is None else session.get(Walk, walk.source)
    children = queries.list_walks(
        session, limit=MOST_CHILDREN + 1, before=None, status=None, viewer=viewer, source=walk.id
    )
    return Lineage(
        parent=parent and _relative(parent),
        children=[_relative(walk) for walk in children[:MOST_CHILDREN]],
        more=len(children) > MOST_CHILDREN,
    )


def _relative(walk: Walk) -> Relative:
    return Relative(id=walk.id, prompts=walk.spec.prompts, frames=walk.frames_total)
