"""The loop of a worker: claim a chunk, process it, and record the result or give it up."""

import os
import time
from collections.abc import Callable
from functools import partial

import structlog

from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.errors import (
    KeysLostError,
    LeaseLostError,
    ModelError,
    RendererBusyError,
    StoreBusyError,
    StoreUnavailableError,
)
from momalisa.queue import celery_app, leases, results
from momalisa.queue.leases import Claim
from momalisa.telemetry import metrics, tracing
from momalisa.telemetry.logging import logger
from worker.lease import Lease
from worker.process.heartbeat import process_name
from worker.process.shutdown import ShutdownRequested
from worker.process.worker import Worker
from worker.recording import Record, give_up, record_or_leave, write

log = logger(__name__)

Work = Callable[[Lease], Record]
"""Processes a claimed chunk; returns the function that records its result."""

MESSAGE_SECONDS = 600
"""How long a worker claims chunks for one wake-up message; far below the broker's visibility timeout."""

DETERMINISTIC = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError),
    *(TypeError, ValueError, ModelError),
)
"""Errors that the same input causes again; others may come from memory, a device, a file or the network."""


def run(worker: Worker, kind: ChunkKind, work: Work) -> None:
    """Claim chunks of a kind, one after another, process and record them, until there are none left.

    So a backlog needs no wake-up messages; they only wake idle workers. This also returns if more messages wait,
    since each of them leads to a claim; after a chunk that did not succeed; and after MESSAGE_SECONDS.

    Raises:
        SystemExit: if two walks in a row failed here. Then the process may be at fault (a CUDA error, no memory
            left), so the next chunk gets a new one.
    """
    worker.watchdog.start()
    until = time.monotonic() + MESSAGE_SECONDS
    while (
        not worker.shutdown.requested()
        and _claim_and_process(worker, kind, work)
        and time.monotonic() < until
        and not _messages_wait(kind)
    ):
        pass


def _messages_wait(kind: ChunkKind) -> bool:
    try:
        return celery_app.count_messages(kind) > 0
    except celery_app.BROKER_ERRORS:
        return False  # then none can be received


def _claim_and_process(worker: Worker, kind: ChunkKind, work: Work) -> bool:
    """Claim a chunk and process it; return whether this worker should claim another."""
    if (seconds := worker.health.backoff_seconds()) and worker.shutdown.wait(seconds):
        return False
    try:
        with transaction() as session:
            claim = leases.claim(session, kind, process_name(), process_name(os.getppid()))
    except StoreUnavailableError as error:
        log.warning("claim failed", reason=str(error))
        return False
    if claim is None:
        log.info("nothing to do", kind=kind)
        return False
    walk, number = str(claim.walk_id), claim.number
    with (
        worker.crashes.tracking(claim),
        structlog.contextvars.bound_contextvars(walk=walk, chunk=number, kind=kind),
        tracing.span(f"{kind} chunk", parent=claim.traceparent, walk=walk, chunk=number, attempt=claim.attempt),
    ):
        return _process(worker, claim, work)


def _process(worker: Worker, claim: Claim, work: Work) -> bool:
    """Process a claimed chunk; return whether this worker should claim another."""
    log.info("chunk claimed", attempt=claim.attempt, frames=len(claim.frames))
    if claim.recovery_seconds is not None:
        metrics.record(metrics.RECOVERY_SECONDS, claim.recovery_seconds)
    started = time.monotonic()
    lease = Lease(worker, claim)
    recorded, succeeded = 0, True
    try:
        with lease:
            ready = write(worker.shutdown, work(lease), lease.checkpoint)
        recorded = lease.to_record
        worker.failed_walks.clear()
        worker.health.record_success()
        seconds = time.monotonic() - started
        metrics.record(metrics.CHUNK_SECONDS, seconds, kind=claim.kind, model=claim.model)
        log.info("chunk done", seconds=round(seconds, 3))
    except StoreBusyError as error:  # a slow statement may be slow each time, so the attempt counts
        _attempt_failed(worker, claim, error)
        return False
    except (ShutdownRequested, StoreUnavailableError) as cause:
        succeeded = False
        ready = give_up(worker.shutdown, claim, lambda session: leases.release(session, claim))
        log.info("chunk released", cause=type(cause).__name__)
        tracing.failed("released")
    except RendererBusyError as busy:
        seconds = busy.retry_after
        give_up(worker.shutdown, claim, lambda session: leases.release(session, claim, seconds))
        log.warning("chunk released", cause=type(busy).__name__, reason=str(busy), retry_after=seconds)
        tracing.failed("released")
        worker.shutdown.wait(seconds)  # the next chunk would fare no better
        return False
    except KeysLostError as lost:  # their files, or the way that this worker reads them, may be at fault
        log.warning("keys lost", reason=str(lost))
        tracing.failed("keys lost")
        requeue = partial(results.requeue_keys, claim=claim, positions=lost.positions)
        ready = record_or_leave(worker.shutdown, requeue)
    except LeaseLostError:
        ready, succeeded = None, False
        log.warning("lease lost, chunk dropped")
        tracing.failed("lease lost")
    except Exception as error:  # noqa: BLE001 - any error is reported and logged
        _attempt_failed(worker, claim, error)
        return False
    finally:
        if lease.rendered:
            metrics.record(metrics.FRAMES_RENDERED, recorded, model=claim.model)
            metrics.record(metrics.FRAMES_WASTED, lease.rendered - recorded, model=claim.model)
    if ready is not None:
        celery_app.publish(*ready)
    return succeeded


def _attempt_failed(worker: Worker, claim: Claim, error: Exception) -> None:
    """Report a failed attempt, and count it against its cause: the walk, or this process and worker."""
    log.exception("attempt failed", attempt=claim.attempt)
    reason = f"{type(error).__name__}: {error}"
    tracing.failed(reason)
    deterministic = isinstance(error, DETERMINISTIC)
    give_up(
        worker.shutdown,
        claim,
        lambda session: leases.attempt_failed(session, claim, reason, deterministic=deterministic),
    )
    if deterministic:
        return  # the input is at fault
    worker.failed_walks.add(claim.walk_id)
    worker.health.record_failure(claim.kind, reason)
    if len(worker.failed_walks) > 1:
        log.error("two walks in a row failed, ending this process")
        raise SystemExit(1) from error
