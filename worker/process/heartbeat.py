"""What a working process lets others know of itself: that it is there, and which model it has."""

import os
import socket
import threading
from functools import cache

from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.errors import StoreUnavailableError
from momalisa.queue import fairness, workers
from momalisa.settings import settings
from momalisa.telemetry.logging import logger

log = logger(__name__)

_leaving = threading.Event()


def name() -> str:
    """Return the name of this process, as host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


@cache
def start(kind: ChunkKind) -> None:
    """Say every third of a lease that this process is there, from now on until `end`."""
    threading.Thread(target=_say, args=(kind,), name="presence", daemon=True).start()


def stop() -> None:
    """Say that this process leaves; if the database is away, others notice after a lease."""
    _leaving.set()
    try:
        with transaction() as session:
            workers.report_gone(session, name())
    except StoreUnavailableError as error:
        log.warning("leaves without a word", reason=str(error))


def _say(kind: ChunkKind) -> None:
    model = settings().model_name if kind == ChunkKind.RENDER else fairness.NO_MODEL
    while not _leaving.is_set():
        try:
            with transaction() as session:
                workers.report_alive(session, name(), kind, model)
        except StoreUnavailableError as error:
            log.warning("not announced", reason=str(error))
        _leaving.wait(settings().lease_seconds / 3)
