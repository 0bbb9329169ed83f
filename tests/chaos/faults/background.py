"""Faults of the workers and of the reconciler."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import psutil

from momalisa.settings import ROOT, environment
from tests.chaos.faults.matrix import Miss, row
from tests.chaos.proxy import Trouble
from tests.chaos.stage import LEASE_SECONDS, SICK, Stage

SICK_SECONDS = 10
"""How long a worker is sick at most; if others succeed in the meantime, it backs off earlier."""

RESTS = "worker fails where others succeed, backing off"


def hit(stage: Stage, kind: str, strike: Callable[[str, int], object]) -> None:
    """Signal a part that is working on a chunk of a kind, and record the chunk as lost."""
    with stage.busy(kind) as found:
        if found is None:
            raise Miss
        name, pid, _ = found
        stage.mark_lost(pid)
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            strike(name, pid)


def terminate(stage: Stage, name: str) -> None:
    """Ask a worker to stop; Spot nodes grant 15 seconds."""
    process = stage.process(name)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        stage.wrong(f"{name} did not stop within 15 s of SIGTERM")
        os.killpg(process.pid, signal.SIGKILL)


# Render workers


@row("render worker", "SIGKILL of the child")
def _(stage: Stage) -> None:
    hit(stage, "render", lambda _, pid: os.kill(pid, signal.SIGKILL))


@row("render worker", "SIGKILL of the parent")
def _(stage: Stage) -> None:
    hit(stage, "render", lambda name, _: stage.kill(name))


@row("render worker", "SIGKILL of the group")
def _(stage: Stage) -> None:
    hit(stage, "render", lambda name, _: stage.kill(name, group=True))


@row("render worker", "SIGTERM, 15 s")
def _(stage: Stage) -> None:
    hit(stage, "render", lambda name, _: terminate(stage, name))


@row("render worker", "SIGSTOP past the lease, then SIGCONT")
def _(stage: Stage) -> None:
    def sleep(name: str, _: int) -> None:
        pid = stage.process(name).pid
        os.killpg(pid, signal.SIGSTOP)
        time.sleep(LEASE_SECONDS * 1.8)
        os.killpg(pid, signal.SIGCONT)

    hit(stage, "render", sleep)


@row("render worker", "crash in native code")
def _(stage: Stage) -> None:
    hit(stage, "render", lambda _, pid: os.kill(pid, signal.SIGSEGV))


@row("render worker", "out of memory")
def _(stage: Stage) -> None:
    def starve(_: str, pid: int) -> None:
        used = psutil.Process(pid).memory_info().vms
        if sys.platform == "linux":  # for the type checker: only Linux has this call
            resource.prlimit(pid, resource.RLIMIT_AS, (used, used))

    hit(stage, "render", starve)


@row("render worker", "sick: fails where others succeed")
def _(stage: Stage) -> None:
    """Refuse all uploads of one of the render workers, until it backs off."""
    log = stage.child(SICK).log
    rests = log.read_text().count(RESTS)
    refused = stage.way_of_one.met
    stage.way_of_one.trouble = Trouble.FORBIDDEN
    try:
        stage.until(lambda: log.read_text().count(RESTS) > rests, seconds=SICK_SECONDS)
    finally:
        stage.way_of_one.trouble = None
    if stage.way_of_one.met == refused:
        raise Miss


# Assembly worker


@row("assembly worker", "SIGKILL mid-encode")
def _(stage: Stage) -> None:
    hit(stage, "assemble", lambda _, pid: os.kill(pid, signal.SIGKILL))


@row("assembly worker", "SIGTERM")
def _(stage: Stage) -> None:
    terminate(stage, "assemble-1")


def _recorded_frame(stage: Stage) -> str:
    """Return the object of a frame whose walk is not assembled yet."""
    found = stage.until(
        lambda: (
            stage.rows(
                "SELECT object FROM frames JOIN walks ON walks.id = walk_id"
                " WHERE object IS NOT NULL AND status = 'running' ORDER BY random() LIMIT 1"
            )
            or None
        ),
        seconds=20,
    )
    if not found:
        raise Miss
    return str(found[0][0])


@row("assembly worker", "a frame object is missing")
def _(stage: Stage) -> None:
    name = _recorded_frame(stage)
    answer = httpx.delete(stage.object_url(name))
    if answer.status_code == 404:
        raise Miss  # this fault has hit the same frame before
    answer.raise_for_status()


@row("assembly worker", "a frame object is damaged")
def _(stage: Stage) -> None:
    name = _recorded_frame(stage)
    stage.plant(name, b"\x89PNG damaged")


# Reconciler


@row("reconciler", "SIGKILL")
def _(stage: Stage) -> None:
    stage.kill("reconciler")


@row("reconciler", "two at once")
def _(stage: Stage) -> None:
    second = subprocess.Popen(
        [sys.executable, "-m", "momalisa", "reconcile"],
        cwd=ROOT,
        env=environment(**stage.variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(4)
    finally:
        second.terminate()
        second.wait(15)
