"""The Celery tasks, and what Celery tells a worker process about its life. No work is done here."""

import gc
from typing import Any

from celery import signals

from momalisa.domain.states import ChunkKind
from momalisa.queue import celery_app
from momalisa.settings import settings
from momalisa.telemetry import logging, tracing
from worker import assemble_task, lease, render_task
from worker.process import ending, heartbeat, pulse, shutdown, startup
from worker.process.pulse import State
from worker.rendering.loaded import renderer

app = celery_app.app()
app.conf.worker_consumer = "worker.process.consumer:Consumer"
app.conf.worker_pool = "worker.process.ending:TaskPool"
app.steps["consumer"].add(pulse.ConsumerHeartbeat)
logger = logging.logger(__name__)


@app.task(name=celery_app.task_name(ChunkKind.RENDER))
def render() -> None:
    """Take a permit to render: claim the best chunk and render it."""
    lease.run(ChunkKind.RENDER, render_task.render)


@app.task(name=celery_app.task_name(ChunkKind.ASSEMBLE))
def assemble() -> None:
    """Take a permit to assemble: claim a walk whose frames are all there and stitch them."""
    lease.run(ChunkKind.ASSEMBLE, assemble_task.assemble)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    logging.configure()


def _kind() -> ChunkKind:
    """Return what this worker works on."""
    return ChunkKind.RENDER if ChunkKind.RENDER in app.amqp.queues.consume_from else ChunkKind.ASSEMBLE


@signals.worker_init.connect
def _answer_for_the_children(**_: Any) -> None:
    with startup.in_parent():
        pulse.serve_health(_kind(), shutdown.stopping)


@signals.worker_init.connect
def _import_the_renderer(**_: Any) -> None:
    """Import torch in the parent, which touches no GPU by that, so that a new child need only load the model.

    What is imported is never thrown away: looking for garbage in it would take a sixth of the time, and would have
    each child copy the memory that it shares with the parent.
    """
    if _kind() == ChunkKind.RENDER and settings().renderer == "local":
        gc.disable()
        with startup.in_parent():
            import worker.rendering.pipeline  # noqa: F401, PLC0415
        gc.freeze()
        gc.enable()


@signals.worker_process_init.connect
def _load_the_model(**_: Any) -> None:
    """Load the model in the child that will use it, before it reports for work; one without a model ends here."""
    loads = _kind() == ChunkKind.RENDER and settings().renderer == "local"
    with startup.in_child(settings().model if loads else None):
        lease.start_watchdog()
        pulse.attach()
        tracing.start(_kind().value)
        ending.report()
        if loads:
            renderer()
    if _kind() == ChunkKind.RENDER:
        logger.info("renderer ready", model=settings().model_name)
    heartbeat.start(_kind())
    pulse.report(State.READY)


@signals.worker_process_shutdown.connect
def _leave(**_: Any) -> None:
    heartbeat.stop()
    tracing.stop()


@signals.worker_shutting_down.connect
def _stop_claiming(**_: Any) -> None:
    shutdown.stop()
