"""The heartbeat of a worker process: it registers in the database as alive, with its model."""

import os
import socket
import threading

from momalisa.db.session import transaction
from momalisa.domain.model import Model
from momalisa.domain.states import ChunkKind
from momalisa.errors import StoreUnavailableError
from momalisa.queue import catalog, fairness, workers
from momalisa.settings import settings
from momalisa.telemetry.logging import logger

log = logger(__name__)


def process_name(pid: int | None = None) -> str:
    """Return the name of a process of this machine, as host:pid; this process by default."""
    return f"{socket.gethostname()}:{pid or os.getpid()}"


class Heartbeat:
    """Registers this process in the database every third of a lease, from `start` to `stop`.

    A render worker also reports what its model can do: before it loads the weights, so that the API knows soon, and
    after it; or, if the database was away then, when it is ready.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._model: Model | None = None
        self._described = self._loaded = False

    def describe(self, model: Model, *, loaded: bool) -> None:
        """Report the model of this process; without a database that is left to `start`.

        Args:
            model: what it can do.
            loaded: False if this process is about to load it.
        """
        self._model, self._described, self._loaded = model, False, loaded
        try:
            with transaction() as session:
                catalog.report(session, model, loaded=loaded)
            self._described = True
        except StoreUnavailableError as error:
            log.warning("model not reported yet", reason=str(error))

    def start(self, kind: ChunkKind) -> None:
        """Start the thread that registers this process."""
        threading.Thread(target=self._beat, args=(kind,), name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Remove this process; if the database is unavailable, its entry expires after LEASE_SECONDS."""
        self._stopped.set()
        try:
            with transaction() as session:
                workers.report_gone(session, process_name())
        except StoreUnavailableError as error:
            log.warning("worker not removed, its entry will expire", reason=str(error))

    def _beat(self, kind: ChunkKind) -> None:
        model = self._model.name if self._model is not None else fairness.NO_MODEL
        while not self._stopped.is_set():
            try:
                with transaction() as session:
                    if self._model is not None and not self._described:
                        catalog.report(session, self._model, loaded=self._loaded)
                    workers.report_alive(session, process_name(), kind, model)
                self._described = True
            except StoreUnavailableError as error:
                log.warning("worker heartbeat failed", reason=str(error))
            self._stopped.wait(settings().lease_seconds / 3)
