"""The models that walks can be made with: those that live render workers have, and the default one.

Each function works inside the transaction of its caller (`db.session.transaction`), who commits.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from momalisa import description
from momalisa.db.models import Chunk, KnownModel, Worker
from momalisa.domain.model import Model
from momalisa.domain.states import ChunkStatus
from momalisa.errors import InvalidFieldError
from momalisa.queue import workers
from momalisa.settings import settings

REMEMBERED = timedelta(days=30)
"""Models are kept for so long after they were described last, when a worker started."""


@dataclass(frozen=True)
class Catalog:
    """The models on offer."""

    default: Model
    """Of a walk that names none. It is on offer without a worker, too: the walk waits for one."""
    others: tuple[Model, ...]
    """By name."""
    workers: dict[str, int]
    """How many live workers have a model, by its name."""

    @property
    def models(self) -> tuple[Model, ...]:
        """All models on offer, the default first."""
        return (self.default, *self.others)

    def choose(self, name: str | None) -> Model:
        """Return a model by its name; None means the default.

        Raises:
            InvalidFieldError: if it is not on offer.
        """
        if name is None:
            return self.default
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            there = ", ".join(model.name for model in self.models)
            raise InvalidFieldError("model", f"no worker has “{name}”; available: {there}")
        return found


def report(session: Session, model: Model, *, loaded: bool = True) -> None:
    """Record the description of a model that a worker has.

    Args:
        session: of the caller.
        model: what the worker says of it.
        loaded: whether the worker has loaded it; if not, it does not know yet whether the model is dense, and what
            was recorded of that before stays.
    """
    described = model.model_dump(mode="json", exclude=None if loaded else {"dense"})
    row = insert(KnownModel).values(name=model.name, description=described, described_at=func.now())
    changes = {
        "description": KnownModel.description.op("||")(row.excluded.description),
        "described_at": func.now(),
    }
    session.execute(row.on_conflict_do_update(index_elements=[KnownModel.name], set_=changes))


def delete_forgotten(session: Session) -> None:
    """Remove models that were described over a month ago, have no worker now, and that no walk waits for."""
    waiting = select(Chunk.model).where(Chunk.status.in_([ChunkStatus.QUEUED, ChunkStatus.LEASED]))
    session.execute(
        delete(KnownModel).where(
            KnownModel.described_at < func.now() - REMEMBERED,
            KnownModel.name != settings().model_name,
            KnownModel.name.not_in(select(Worker.model)),
            KnownModel.name.not_in(waiting),
        )
    )


def offered(session: Session) -> Catalog:
    """Return the models on offer now."""
    alive = func.count(Worker.name)
    rows = session.execute(
        select(KnownModel.name, KnownModel.description, alive)
        .outerjoin(Worker, (Worker.model == KnownModel.name) & workers.renders()[0] & workers.renders()[1])
        .group_by(KnownModel.name)
        .order_by(KnownModel.name)
    ).all()
    usual = settings().model_name
    models = {name: Model.model_validate(described) for name, described, number in rows if number or name == usual}
    default = description.as_settings_have_it(models.pop(usual)) if usual in models else description.of_settings()
    return Catalog(default, tuple(models.values()), {name: number for name, _, number in rows if number})
