"""Moderation: banned words in prompts, and hidden walks."""

import re
from functools import cache
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from momalisa.db import notifications
from momalisa.db.models import Walk
from momalisa.domain.prompts import words
from momalisa.errors import WalkNotFoundError
from momalisa.queue import lifecycle
from momalisa.settings import settings
from momalisa.walks import confusables, relocation, service


def find_banned(prompt: str) -> str | None:
    """Return the first word or phrase of the blocklist that a prompt contains, or None.

    Case, accents, the width of letters, look-alike letters of other scripts and invisible characters make no
    difference, nor do weights within a word. Only whole words match: "class" does not match a banned word that is a
    part of it.
    """
    blocklist = settings().blocklist
    pattern = None if blocklist is None else _pattern(blocklist)
    if pattern is None:
        return None
    found = pattern.search(confusables.skeleton(prompt)) or pattern.search(confusables.skeleton(words(prompt)))
    return found[0] if found else None


@cache
def _pattern(blocklist: Path) -> re.Pattern[str] | None:
    """Return a pattern that matches any line of a file, without blank lines and # comments; None if it has none."""
    lines = (
        confusables.skeleton(line.partition("#")[0]).strip()
        for line in blocklist.read_text(encoding="utf-8").splitlines()
    )
    phrases = [r"[\W_]+".join(map(re.escape, line.split())) for line in lines if line]
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(phrases)})(?![^\W_])") if phrases else None


def hide(session: Session, walk_id: UUID) -> None:
    """Hide a walk: from now on only its owner sees it. Hiding it again changes nothing.

    The present URLs of its files stop working soon (`relocation`).

    Raises:
        WalkNotFoundError: if there is none with this id.
    """
    lifecycle.lock_chunks(session, walk_id)
    hidden = session.scalar(select(Walk.hidden_at).where(Walk.id == walk_id))
    _change(session, walk_id, hidden_at=func.coalesce(Walk.hidden_at, func.now()))
    if hidden is None:
        relocation.begin(session, walk_id)


def show(session: Session, walk_id: UUID) -> None:
    """Show a hidden walk again.

    Raises:
        WalkNotFoundError: if there is none with this id.
    """
    _change(session, walk_id, hidden_at=None)


def delete(session: Session, walk_id: UUID) -> None:
    """Cancel a walk if it is active, and delete it with all its files, as its owner can.

    Raises:
        WalkNotFoundError: if there is none with this id.
    """
    hide(session, walk_id)
    service.remove(session, walk_id)


def _change(session: Session, walk_id: UUID, **values: object) -> None:
    changed = session.scalar(
        update(Walk)
        .where(Walk.id == walk_id, Walk.deleted_at.is_(None))
        .values(**values, **notifications.changed(session, walk_id))
        .returning(Walk.id)
    )
    if changed is None:
        raise WalkNotFoundError(f"There is no walk {walk_id}.")
