"""The registry of live workers: each process that claims chunks reports itself every few seconds.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits.
"""

from datetime import timedelta

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from momalisa.db.models import Worker
from momalisa.domain.states import ChunkKind
from momalisa.settings import settings


def report_alive(session: Session, name: str, kind: ChunkKind, model: str) -> None:
    """Record that a worker is alive.

    Args:
        session: of the caller.
        name: of the worker process, as host:pid.
        kind: of the chunks that it claims.
        model: that it has loaded; `fairness.NO_MODEL` if it needs none.
    """
    values = {"kind": kind, "model": model, "seen_at": func.now()}
    row = insert(Worker).values(name=name, **values)
    session.execute(row.on_conflict_do_update(index_elements=[Worker.name], set_=values))


def report_gone(session: Session, name: str) -> None:
    """Remove a worker that is shutting down."""
    session.execute(delete(Worker).where(Worker.name == name))


def count(model: str) -> Select[int]:
    """Return the query that counts the render workers of a model that were seen within LEASE_SECONDS."""
    return select(func.count()).where(Worker.model == model, *renders())


def count_alive(session: Session) -> dict[tuple[ChunkKind, str], int]:
    """Return the number of workers of each kind and model that were seen within LEASE_SECONDS."""
    by = (Worker.kind, Worker.model)
    found = session.execute(select(*by, func.count()).where(_seen_recently()).group_by(*by))
    return {(ChunkKind(kind), model): number for kind, model, number in found}


def renders() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a worker renders, and was seen within LEASE_SECONDS."""
    return Worker.kind == ChunkKind.RENDER, _seen_recently()


def _seen_recently() -> ColumnElement[bool]:
    return Worker.seen_at > func.now() - timedelta(seconds=settings().lease_seconds)


def delete_silent(session: Session) -> None:
    """Remove workers that were last seen a day ago or earlier."""
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - timedelta(days=1)))
