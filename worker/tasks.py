"""Celery tasks and signal handlers, which only call the worker."""

import gc
from typing import Any

from celery import signals

from momalisa.domain.states import ChunkKind
from momalisa.queue import celery_app
from momalisa.settings import settings
from momalisa.telemetry import logging, metrics, tracing
from worker import assemble_task, render_task, runner
from worker.process.consumer import consumer_class
from worker.process.crash import pool_class
from worker.process.monitor import State, consumer_heartbeat
from worker.process.worker import Worker
from worker.rendering.loaded import model, renderer

logger = logging.logger(__name__)

worker = Worker()

app = celery_app.app()
app.conf.worker_consumer = consumer_class(worker.shutdown)
app.conf.worker_pool = pool_class(worker.crashes)
app.steps["consumer"].add(consumer_heartbeat(worker.monitor))


@app.task(name=celery_app.task_name(ChunkKind.RENDER))
def render() -> None:
    """Claim render chunks and render their frames."""
    runner.run(worker, ChunkKind.RENDER, render_task.render)


@app.task(name=celery_app.task_name(ChunkKind.ASSEMBLE))
def assemble() -> None:
    """Claim assemble chunks and make the artifacts of their walks."""
    runner.run(worker, ChunkKind.ASSEMBLE, assemble_task.assemble)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    logging.configure()


def _kind() -> ChunkKind:
    """Return the kind of chunk that this worker works on."""
    renders = celery_app.queue_name(ChunkKind.RENDER) in app.amqp.queues.consume_from
    return ChunkKind.RENDER if renders else ChunkKind.ASSEMBLE


@signals.worker_init.connect
def _serve_metrics(**_: Any) -> None:
    with worker.startup.in_parent():
        worker.monitor.serve(_kind())


@signals.worker_init.connect
def _import_torch(**_: Any) -> None:
    """Import torch in the parent, which never uses the GPU, so that a new child only has to load the model.

    Imported modules are never garbage: scanning them would take a sixth of the time, and would make each child copy
    the memory that it shares with the parent.
    """
    if _kind() == ChunkKind.RENDER and settings().renderer == "local":
        gc.disable()
        with worker.startup.in_parent():
            from worker.rendering import pipeline  # noqa: F401, PLC0415
        gc.freeze()
        gc.enable()


@signals.worker_process_init.connect
def _start_child(**_: Any) -> None:
    """Load the model in the child that will use it, before it claims anything; if that fails, the child ends."""
    loads = _kind() == ChunkKind.RENDER and settings().renderer == "local"
    with worker.startup.in_child(settings().model if loads else None):
        worker.watchdog.start()
        worker.monitor.attach_child()
        tracing.start(_kind().value)
        worker.crashes.report()
        if _kind() == ChunkKind.RENDER:
            worker.heartbeat.describe(model(), loaded=False)
            # So that an alert notices if it stays at 0:
            metrics.record(metrics.FRAMES_RENDERED, 0, model=settings().model_name)
        if loads:
            described = model().model_copy(update={"dense": renderer().dense})
            worker.heartbeat.describe(described, loaded=True)
    if _kind() == ChunkKind.RENDER:
        logger.info("renderer ready", model=settings().model_name)
    worker.heartbeat.start(_kind())
    worker.monitor.report(State.READY)


@signals.worker_process_shutdown.connect
def _stop_child(**_: Any) -> None:
    worker.heartbeat.stop()
    tracing.stop()


@signals.worker_shutting_down.connect
def _stop_claiming(**_: Any) -> None:
    worker.shutdown.request()
