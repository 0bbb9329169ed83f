"""Who works: each process that claims chunks says every few seconds that it is there, and what it can do.

Each function works inside the transaction of its caller (`database.transaction`), who commits.
"""

from datetime import timedelta

from sqlalchemy import Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from momalisa.db.models import Worker
from momalisa.domain.states import ChunkKind
from momalisa.settings import settings


def report_alive(session: Session, name: str, kind: ChunkKind, model: str) -> None:
    """Note that a worker is there.

    Args:
        session: of the caller.
        name: of the worker, as host:pid.
        kind: of the chunks that it claims.
        model: that it has; `turns.NO_MODEL` if it needs none.
    """
    values = {"kind": kind, "model": model, "seen_at": func.now()}
    row = insert(Worker).values(name=name, **values)
    session.execute(row.on_conflict_do_update(index_elements=[Worker.name], set_=values))


def report_gone(session: Session, name: str) -> None:
    """Note that a worker has left."""
    session.execute(delete(Worker).where(Worker.name == name))


def count(model: str) -> Select[int]:
    """Return the query for how many render workers are there that have a model: those seen within a lease."""
    lately = Worker.seen_at > func.now() - timedelta(seconds=settings().lease_seconds)
    return select(func.count()).where(Worker.kind == ChunkKind.RENDER, Worker.model == model, lately)


def delete_silent(session: Session) -> None:
    """Forget workers that left without a word, a day ago."""
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - timedelta(days=1)))
