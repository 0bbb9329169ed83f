"""The renderer of this process: one model, loaded and warmed up once."""

from functools import cache
from typing import TYPE_CHECKING

from momalisa import description
from momalisa.domain.model import Model
from momalisa.location import locate, weighted
from momalisa.settings import settings
from momalisa.telemetry.logging import logger

if TYPE_CHECKING:
    from worker.rendering.pipeline import Renderer

log = logger(__name__)


@cache
def model() -> Model:
    """Return the description of the model of this process, from its configuration.

    Raises:
        ModelError: if it cannot render walks, or its configuration is not available; no weights are read yet.
    """
    if settings().renderer != "local":
        return description.of_settings()
    from worker.rendering.construction import configuration  # noqa: PLC0415

    folder = configuration(locate(settings().model))
    loras = [place.name for place, _ in map(weighted, settings().loras)]
    return description.describe(settings().model_name, folder, loras)


@cache
def renderer() -> "Renderer":
    """Return the renderer of this process, loaded and warmed up at the first call.

    Torch is imported here and not above, because assembly workers do not need it.
    """
    from worker.rendering.additions import Additions  # noqa: PLC0415
    from worker.rendering.pipeline import Renderer  # noqa: PLC0415

    loaded = Renderer(
        settings().model,
        batch_size=settings().batch_size,
        device=settings().device,
        dtype=settings().dtype,
        offload=settings().offload,
        threads=settings().threads,
        additions=Additions.of(settings()),
    )
    if folder := settings().compile_cache_dir:
        loaded.compile(model().size, folder)
    loaded.warm_up(model().size)
    log.info("model loaded", revision=loaded.made_with.revision)
    return loaded
