"""Walks by a word of their prompts, found at once however many there are.

A word that many walks have is soon found among the newest ones; one that few have is found by an index of all three
letters in a row (`walk_grams`, a function of the database).
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
"""Walks that are looked through before the index is asked: more of them cost more than it does."""

FOLDING = "pg_c_utf8"
"""The collation that knows the small letters of all scripts, and is the same in every PostgreSQL from 17 on."""


def first(session: Session, walks: Select[Walk], word: str, limit: int) -> Sequence[UUID]:
    """Return the ids of the first walks that have a word in one of their prompts, in any case.

    Args:
        session: whose transaction it is.
        walks: those among which is looked, newest first; how many they are does not matter.
        word: what is looked for: at least one letter, digit or sign.
        limit: how many are returned at most.
    """
    rows = walks.with_only_columns(Walk.id, Walk.created_at, Walk.spec).limit(None)
    found = _with(session, rows.limit(NEWEST).subquery(), word, limit)
    if len(found) == limit:
        return found
    candidates = rows.order_by(None).where(func.walk_grams(_prompts(Walk.spec)).op("@@")(func.walk_query(word)))
    # Apart from the rest, so that PostgreSQL does not walk through all walks for a word that few have.
    return _with(session, candidates.cte().prefix_with("MATERIALIZED"), word, limit)


def _with(session: Session, walks: FromClause, word: str, limit: int) -> Sequence[UUID]:
    newest_first = (walks.c.created_at.desc(), walks.c.id.desc())
    return session.scalars(
        select(walks.c.id).where(_mentions(walks.c.spec, word)).order_by(*newest_first).limit(limit)
    ).all()


def _mentions(spec: Any, word: str) -> ColumnElement[bool]:
    """Return the condition that a word is in one of the prompts of a walk."""
    prompt = func.jsonb_array_elements_text(_prompts(spec)).column_valued("prompt")
    place = func.strpos(func.lower(collate(prompt, FOLDING)), func.lower(collate(literal(word), FOLDING)))
    return exists(select(prompt).where(place > 0))


def _prompts(spec: Any) -> ColumnElement[Any]:
    return type_coerce(spec, JSONB).op("->")(literal_column("'prompts'"))  # letter for letter as in the index
