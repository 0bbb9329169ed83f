"""The renderer of this process: one model, loaded and warmed once."""

from functools import cache
from typing import TYPE_CHECKING

from momalisa import description
from momalisa.settings import settings
from momalisa.telemetry.logging import logger

if TYPE_CHECKING:
    from worker.rendering.pipeline import Renderer

log = logger(__name__)


@cache
def renderer() -> "Renderer":
    """Return the renderer of this process, loaded and warmed at the first call.

    Torch is imported here and not above, because an assembly worker does not need it.
    """
    from worker.rendering.pipeline import Renderer  # noqa: PLC0415

    loaded = Renderer(
        settings().model,
        batch_size=settings().batch_size,
        device=settings().device,
        dtype=settings().dtype,
        offload=settings().offload,
        threads=settings().threads,
    )
    size = description.of_settings().size
    if folder := settings().compile_cache_dir:
        loaded.compile(size, folder)
    loaded.warm_up(size)
    log.info("model known", revision=loaded.revision)  # computed here, so that the first walk does not wait for it
    return loaded
