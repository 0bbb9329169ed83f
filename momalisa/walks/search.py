"""Search for text in prompts, fast however many walks there are.

A common text is found among the newest walks; a rare one is found by an index of the trigrams of prompts
(`walk_grams`, a function of the database).
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    collate,
    exists,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momalisa.db.models import Walk

NEWEST = 500
"""Number of walks to scan before the index is used; scanning more would cost more than the index."""

CASE_COLLATION = "pg_c_utf8"
"""The collation for lower(): it covers all scripts, and is the same in every PostgreSQL from 17 on."""


def find(session: Session, walks: Select[Walk], text: str, limit: int) -> Sequence[UUID]:
    """Return the ids of the first walks of which one prompt contains a text, ignoring case.

    Args:
        session: of the caller.
        walks: the query to search in, newest first; its own limit is ignored.
        text: at least one character.
        limit: maximum number of ids.
    """
    rows = walks.with_only_columns(Walk.id, Walk.created_at, Walk.spec).limit(None)
    found = _containing(session, rows.limit(NEWEST).subquery(), text, limit)
    if len(found) == limit:
        return found
    candidates = rows.order_by(None).where(func.walk_grams(_prompts(Walk.spec)).op("@@")(func.walk_query(text)))
    # Materialized, so that PostgreSQL does not scan all walks for a rare text.
    return _containing(session, candidates.cte().prefix_with("MATERIALIZED"), text, limit)


def _containing(session: Session, walks: FromClause, text: str, limit: int) -> Sequence[UUID]:
    newest_first = (walks.c.created_at.desc(), walks.c.id.desc())
    return session.scalars(
        select(walks.c.id).where(_contains(walks.c.spec, text)).order_by(*newest_first).limit(limit)
    ).all()


def _contains(spec: Any, text: str) -> ColumnElement[bool]:
    """Return the condition that one of the prompts contains a text, ignoring case."""
    prompt = func.jsonb_array_elements_text(_prompts(spec)).column_valued("prompt")
    place = func.strpos(
        func.lower(collate(prompt, CASE_COLLATION)), func.lower(collate(literal(text), CASE_COLLATION))
    )
    return exists(select(prompt).where(place > 0))


def _prompts(spec: Any) -> ColumnElement[Any]:
    return type_coerce(spec, JSONB).op("->")(literal_column("'prompts'"))  # exactly as in the index
