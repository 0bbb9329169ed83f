"""Models that workers report, without any worker."""

from momalisa.db.session import transaction
from momalisa.domain.model import Model
from momalisa.domain.states import ChunkKind
from momalisa.queue import catalog, workers

FLUX = Model(
    name="flux",
    about="Pictures of anything.",
    pipeline="FluxPipeline",
    size=1024,
    max_size=2048,
    multiple=16,
    steps=4,
    guidance=0,
    guided=False,
    negative_above=None,
    sampler="FlowMatchEulerDiscreteScheduler",
    tokens=512,
)


def works(model: Model, name: str = "there:1") -> None:
    """Report a live worker that has a model."""
    with transaction() as session:
        catalog.report(session, model)
        workers.report_alive(session, name, ChunkKind.RENDER, model.name)
