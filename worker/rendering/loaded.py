"""The renderer of this process: one model, loaded and warmed up once."""

from functools import cache
from typing import TYPE_CHECKING

from momalisa.settings import settings
from momalisa.telemetry.logging import logger

if TYPE_CHECKING:
    from worker.rendering.pipeline import Renderer

log = logger(__name__)


@cache
def renderer() -> "Renderer":
    """Return the renderer of this process, loaded and warmed up at the first call.

    Torch is imported here and not above, because assembly workers do not need it.
    """
    from worker.rendering.pipeline import Renderer  # noqa: PLC0415

    loaded = Renderer(
        settings().model,
        batch_size=settings().batch_size,
        device=settings().device,
        dtype=settings().dtype,
        threads=settings().threads,
    )
    if folder := settings().compile_cache_dir:
        loaded.compile(settings().image_size, folder)
    loaded.warm_up(settings().image_size)
    log.info("model loaded", revision=loaded.revision)
    return loaded
