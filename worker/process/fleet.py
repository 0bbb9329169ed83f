"""One render worker for each GPU of a machine or container.

Each is a worker of its own that sees a single GPU. This process starts them, restarts those that end, and answers
for all of them on METRICS_PORT: a container has one health check, and Prometheus reads one port of it.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import FrameType
from typing import TypeVar

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from momalisa.local.processes import CANNOT_WORK, die_with_parent
from momalisa.settings import environment, settings
from momalisa.telemetry import logging, metrics

log = logging.logger(__name__)

COMMAND = (sys.executable, "-m", "worker", "render")

RESTART_SECONDS, POLL_SECONDS = 5.0, 0.2

T = TypeVar("T")

ANSWER_SECONDS = 1.0
"""Timeout of a worker that is asked for its health or its metrics."""


class Member:
    """The worker of a GPU."""

    def __init__(self, gpu: str, port: int | None) -> None:
        self.gpu = gpu
        self._port = port
        """On which it serves its metrics, on this machine only; None without METRICS_PORT."""
        self._ended_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker, with the output of this process."""
        served = {} if self._port is None else {"METRICS_PORT": str(self._port), "METRICS_HOST": "127.0.0.1"}
        self.process = subprocess.Popen(  # noqa: S603
            COMMAND,
            env=environment(CUDA_VISIBLE_DEVICES=self.gpu, **served),
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509
        )

    def code(self) -> int | None:
        """Return the exit code of the worker, or None while it runs."""
        return self.process.poll() if self.process else None

    def restart_if_ended(self) -> None:
        """Restart a worker some seconds after it ended, unless that would not help."""
        code = self.code()
        if code is None or code == CANNOT_WORK:
            self._ended_at = 0.0
        elif not self._ended_at:
            self._ended_at = time.monotonic()
            log.error("worker ended, restarting it", gpu=self.gpu, code=code)
        elif time.monotonic() - self._ended_at > RESTART_SECONDS:
            self._ended_at = 0.0
            self.start()

    def get(self, path: str) -> httpx.Response:
        """Return what the worker answers on the port of its metrics.

        Raises:
            httpx.HTTPError: if it does not answer.
        """
        return _client().get(f"http://127.0.0.1:{self._port}{path}")

    def failure(self, path: str) -> str | None:
        """Return what is wrong with the worker according to a health check of its own, or None."""
        if self.code() is not None:
            return f"{self.gpu}: its worker has ended; the log says why."
        try:
            answer = self.get(path)
        except httpx.HTTPError:
            return f"{self.gpu}: its worker does not answer."
        return None if answer.is_success else f"{self.gpu}: {answer.text.strip()}"

    def metrics(self) -> list[Metric]:
        """Return the metrics of the worker; if it does not give them, that it is not ready."""
        try:
            return list(text_string_to_metric_families(self.get("/metrics").raise_for_status().text))
        except (httpx.HTTPError, ValueError):
            [silent] = metrics.WORKER_READY.describe()
            silent.add_sample(silent.name, {}, 0)
            return [silent]


@cache
def _client() -> httpx.Client:
    return httpx.Client(timeout=ANSWER_SECONDS, trust_env=False)


def _ask(members: Sequence[Member], question: Callable[[Member], T]) -> list[T]:
    """Ask all members at once, so that several silent ones take no longer than one."""
    with ThreadPoolExecutor(max(1, len(members))) as pool:
        return list(pool.map(question, members))


class Metrics(Collector):
    """The metrics of all workers, with the label `gpu`."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the workers, without those of their processes; a silent one is not ready."""
        merged: dict[str, Metric] = {}
        for member, families in zip(self._members, _ask(self._members, Member.metrics), strict=True):
            for family in families:
                if family.name.startswith("momalisa_"):
                    same = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    same.samples += [
                        sample._replace(labels={**sample.labels, "gpu": member.gpu}) for sample in family.samples
                    ]
        yield from merged.values()


def run(gpus: Sequence[str]) -> int:
    """Run a render worker on each of some GPUs until SIGTERM or SIGINT; return the exit code.

    A worker that cannot work on its GPU does not end the others.

    Args:
        gpus: each as CUDA_VISIBLE_DEVICES names it.
    """
    logging.configure()
    first = settings().metrics_port
    members = [Member(gpu, first and first + number) for number, gpu in enumerate(gpus, 1)]
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)

    def failures(path: str, *, of_ended: bool) -> str | None:
        asked = [member for member in members if of_ended or member.code() is None]
        return " ".join(filter(None, _ask(asked, lambda member: member.failure(path)))) or None

    metrics.serve(
        [Metrics(members)],
        # A worker that has ended is restarted alone; one that hangs, with all others:
        alive=lambda: failures("/healthz", of_ended=False),
        ready=lambda: failures("/readyz", of_ended=True),
    )
    log.info("a worker for each GPU", gpus=list(gpus))
    for member in members:
        member.start()
    while not stop.wait(POLL_SECONDS) and any(member.code() != CANNOT_WORK for member in members):
        for member in members:
            member.restart_if_ended()
    for member in members:
        if member.process and member.code() is None:
            member.process.terminate()
    return max(abs(member.process.wait()) for member in members if member.process)
