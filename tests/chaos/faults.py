"""The faults that can be injected, one row each."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import psycopg
import redis
from kombu.exceptions import KombuError

from momalisa.local.processes import free_port
from momalisa.settings import ROOT, environment
from tests.chaos.proxy import Trouble
from tests.chaos.stage import LEASE_SECONDS, ORDERS, QUEUE_PREFIX, SICK, Stage
from tests.frozen import frozen


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    part: str
    name: str
    inject: Callable[[Stage], None]
    """Raises Miss if there was nothing to hit."""


class Miss(Exception):  # noqa: N818
    """There was nothing to hit."""


MATRIX: list[Fault] = []

SICK_SECONDS = 10
"""How long a worker is sick at most; if others succeed in the meantime, it backs off earlier."""

RESTS = "worker fails where others succeed, backing off"

Command = tuple[str | int, ...]
"""Redis commands with their arguments."""


def row(part: str, name: str) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Register a function as a fault."""

    def put(inject: Callable[[Stage], None]) -> Callable[[Stage], None]:
        MATRIX.append(Fault(part, name, inject))
        return inject

    return put


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
    answer = httpx.delete(_object_url(stage, name))
    if answer.status_code == 404:
        raise Miss  # this fault has hit the same frame before
    answer.raise_for_status()


@row("assembly worker", "a frame object is damaged")
def _(stage: Stage) -> None:
    name = _recorded_frame(stage)
    _plant(stage, name, b"\x89PNG damaged")


def _object_url(stage: Stage, name: str) -> str:
    return f"{stage.bucket_url}/storage/v1/b/momalisa/o/{name.replace('/', '%2F')}"


def _plant(stage: Stage, name: str, data: bytes) -> None:
    url = f"{stage.bucket_url}/upload/storage/v1/b/momalisa/o"
    parameters = {"uploadType": "media", "name": name}
    headers = {"Content-Type": "image/png"}
    httpx.post(url, params=parameters, content=data, headers=headers).raise_for_status()


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


# Broker


@row("broker", "SIGKILL, comes back empty")
def _(stage: Stage) -> None:
    stage.kill("valkey")


@row("broker", "FLUSHALL")
def _(stage: Stage) -> None:
    with contextlib.suppress(redis.RedisError):
        stage.broker().flushall()


@row("broker", "down while walks are submitted")
def _(stage: Stage) -> None:
    with stage.down("valkey", row="broker down"), httpx.Client(timeout=15) as http:
        if stage.submit(http) is None and not stage.held & {"postgres", "api"}:
            ready = stage.until(lambda: _answers(stage, http), seconds=20)
            if ready and stage.submit(http) is None:
                stage.wrong("a walk was not accepted while the broker was down")


def _answers(stage: Stage, http: httpx.Client) -> bool:
    try:
        return http.get(f"{stage.url}/readyz").is_success
    except httpx.TransportError:
        return False


@row("broker", "connections cut")
def _(stage: Stage) -> None:
    with contextlib.suppress(redis.RedisError):
        stage.broker().client_kill_filter(_type="normal", skipme=True)


def _answering_errors(stage: Stage, row: str, trouble: Command, mend: Command) -> None:
    """Make the broker refuse writes during an outage; cut connections, so that idle clients notice it, too."""
    _done(stage, trouble)
    _done(stage, ("CLIENT", "KILL", "TYPE", "normal"))
    time.sleep(stage.outage(row))
    stage.until(lambda: _done(stage, mend))


def _done(stage: Stage, command: Command) -> bool:
    broker: Any = stage.broker()
    try:
        broker.execute_command(*command)
    except redis.RedisError:  # killed in the meantime, and not back yet
        return False
    return True


@row("broker", "READONLY, as after a failover")
def _(stage: Stage) -> None:
    nowhere: Command = ("REPLICAOF", "127.0.0.1", free_port())
    _answering_errors(stage, "READONLY", nowhere, ("REPLICAOF", "NO", "ONE"))


@row("broker", "OOM: no memory is left")
def _(stage: Stage) -> None:
    _answering_errors(stage, "OOM", ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0))


# PostgreSQL


@row("PostgreSQL", "frozen past the lease")
def _(stage: Stage) -> None:
    with frozen(stage.process("postgres").pid):
        time.sleep(max(stage.outage("PostgreSQL frozen"), LEASE_SECONDS * 1.5))


@row("PostgreSQL", "its clock steps forward, then back by two hours")
def _(stage: Stage) -> None:
    """The clock stays behind, so that everything scheduled is two hours later."""
    for hours in (1, -1):
        stage.clock.step(hours)
        [(off,)] = stage.rows("SELECT extract(epoch FROM clock_timestamp())::float8 - %s", time.time())
        if round(off / 3600) != hours:
            stage.wrong(f"PostgreSQL's clock is off by {off:.0f} s, not by {hours} h")
        time.sleep(stage.outage("clock"))


@row("PostgreSQL", "immediate shutdown and restart")
def _(stage: Stage) -> None:
    stage.kill("postgres", signal.SIGQUIT)


@row("PostgreSQL", "down; the API says 503")
def _(stage: Stage) -> None:
    with stage.down("postgres", signal.SIGQUIT, row="PostgreSQL down"), httpx.Client(timeout=15) as http:
        try:
            answer = http.get(f"{stage.url}/v1/walks")
        except httpx.TransportError:
            return  # the API itself is down because of another fault
        if answer.status_code != 503 or "retry-after" not in answer.headers:
            stage.wrong(f"while PostgreSQL was down, the API answered {answer.status_code}")


@row("PostgreSQL", "connections terminated one by one")
def _(stage: Stage) -> None:
    with contextlib.suppress(psycopg.OperationalError), stage.database() as connection:
        others = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
        for (pid,) in others:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            time.sleep(0.05)


# PgBouncer


@row("PgBouncer", "SIGKILL")
def _(stage: Stage) -> None:
    stage.kill("pgbouncer")


@row("PgBouncer", "frozen past the lease")
def _(stage: Stage) -> None:
    """Workers behind it send no heartbeats, while a reconciler connected directly sees PostgreSQL answer."""
    with frozen(stage.process("pgbouncer").pid):
        time.sleep(max(stage.outage("PgBouncer frozen"), LEASE_SECONDS * 1.5))


# Bucket


def _bucket_row(name: str, kind: Trouble) -> None:
    @row("bucket", name)
    def _(stage: Stage) -> None:
        with stage.trouble(kind, name):
            pass


for _name, _kind in (
    ("503", Trouble.UNAVAILABLE),
    ("429", Trouble.TOO_MANY),
    ("connections reset", Trouble.RESET),
    ("hangs", Trouble.HANG),
    ("slow bytes", Trouble.SLOW),
    ("truncated uploads", Trouble.TRUNCATE),
):
    _bucket_row(_name, _kind)


@row("bucket", "412: an object is there already")
def _(stage: Stage) -> None:
    planned = stage.until(
        lambda: (
            stage.rows(
                "SELECT walk_id::text, secret, position FROM frames JOIN walks ON walks.id = walk_id"
                " WHERE object IS NULL AND status IN ('queued', 'running') ORDER BY random() LIMIT 1"
            )
            or None
        ),
        seconds=20,
    )
    if not planned:
        raise Miss
    walk_id, secret, position = planned[0]
    _plant(stage, f"walks/{walk_id}/{secret}/frames/{position:.9f}.png", b"another picture")


# API


@row("API", "SIGKILL between commit and publish")
def _(stage: Stage) -> None:
    """A frozen broker delays the API after its commit."""
    before = {walk for (walk,) in stage.rows("SELECT id::text FROM walks")}
    with httpx.Client(timeout=15) as http, ThreadPoolExecutor(1) as pool:
        valkey = stage.process("valkey")
        valkey.send_signal(signal.SIGSTOP)
        try:
            submission = pool.submit(stage.submit, http)
            stage.until(
                lambda: {walk for (walk,) in stage.rows("SELECT id::text FROM walks")} - before or None, seconds=10
            )
            stage.kill("api")
        finally:
            valkey.send_signal(signal.SIGCONT)
        submission.result()


@row("API", "SIGKILL under load")
def _(stage: Stage) -> None:
    _under_load(stage, lambda: stage.kill("api"))


WAITING_INSERT = (
    "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO walks%%'"
)


@row("API", "SIGTERM drains requests in flight")
def _(stage: Stage) -> None:
    """A locked table delays a submission, so that SIGTERM finds it in flight; it must still be answered."""
    with httpx.Client(timeout=15) as http, stage.database() as connection, stage.submitting:
        if not stage.until(lambda: _answers(stage, http), seconds=30):
            raise Miss
        api, answers = stage.process("api"), list[int]()

        def submit() -> None:
            try:
                answer = http.post(f"{stage.url}/v1/walks", json=ORDERS[0])
            except httpx.TransportError:
                return
            answers.append(answer.status_code)
            if answer.status_code == 202:
                stage.diary.accept(answer, 0, http)

        submission = threading.Thread(target=submit)
        with connection.transaction():
            connection.execute("LOCK TABLE walks IN EXCLUSIVE MODE")
            submission.start()
            in_flight = stage.until(lambda: connection.execute(WAITING_INSERT).fetchone(), seconds=4)
            api.send_signal(signal.SIGTERM)
        submission.join()
    if in_flight and not answers:
        stage.wrong("a submission in flight was not answered when the API was asked to stop")
    try:
        api.wait(15)
    except subprocess.TimeoutExpired:
        stage.wrong("the API did not stop within 15 s of SIGTERM")
        api.kill()


def _under_load(stage: Stage, strike: Callable[[], object]) -> None:
    def visit(_: int) -> None:
        with httpx.Client(timeout=10) as http:
            for _turn in range(5):
                with contextlib.suppress(httpx.TransportError):
                    http.get(f"{stage.url}/v1/walks")

    with ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit, number) for number in range(4)]
        strike()
        for done in visits:
            done.result()


# Messages


def _publish(stage: Stage, kind: str, count: int) -> None:
    """Send wake-up messages in the product's own format, from outside."""
    from celery import Celery  # noqa: PLC0415

    with (
        contextlib.suppress(KombuError, redis.RedisError, OSError),
        Celery(broker=stage.variables["BROKER_URL"]) as app,
    ):
        app.conf.broker_transport_options = {"global_keyprefix": QUEUE_PREFIX}
        for _ in range(count):
            queue = {"render": "render:momalisa-mini"}.get(kind, kind)
            app.send_task(f"momalisa.{kind}", queue=queue, ignore_result=True, retry=False)


@row("messages", "every task twice")
def _(stage: Stage) -> None:
    [(render,)] = stage.rows("SELECT count(*) FROM chunks WHERE status = 'queued' AND kind = 'render'")
    _publish(stage, "render", render)
    _publish(stage, "assemble", 1)


@row("messages", "three at once, out of order")
def _(stage: Stage) -> None:
    for kind in ("assemble", "render", "assemble", "render"):
        _publish(stage, kind, 3)


@row("messages", "a task for a walk that is gone")
def _(stage: Stage) -> None:
    with httpx.Client(timeout=10) as http:
        walk_id = stage.submit(http)
    if walk_id is None:
        raise Miss
    stage.rows("DELETE FROM walks WHERE id = %s", walk_id)
    stage.diary.removed.add(walk_id)


# Work


@row("work", "a chunk that always fails")
def _(stage: Stage) -> None:
    """A width that no model renders, put into the database behind the API's back."""
    with httpx.Client(timeout=10) as http:
        walk_id = stage.submit(http, order=3)  # with many chunks, so that some are not claimed yet
    if walk_id is None:
        raise Miss
    spoiled = stage.rows(
        "UPDATE walks SET spec = jsonb_set(spec, '{width}', '12') WHERE id = %s"
        " AND EXISTS (SELECT FROM chunks WHERE walk_id = walks.id AND status = 'queued') RETURNING id",
        walk_id,
    )
    if not spoiled:
        raise Miss
    stage.diary.poisoned.add(walk_id)


def _cancel(stage: Stage, status: str) -> None:
    found = stage.until(
        lambda: (
            stage.rows(
                "SELECT id::text FROM walks WHERE status = %s AND id = ANY(%s::uuid[]) ORDER BY random() LIMIT 1",
                status,
                list(stage.diary.accepted.keys() - stage.diary.poisoned),
            )
            or None
        ),
        seconds=10,
    )
    if not found:
        raise Miss
    [(walk_id,)] = found
    cookies = stage.diary.cookies[walk_id]
    try:
        answer = httpx.post(f"{stage.url}/v1/walks/{walk_id}/cancel", cookies=cookies, timeout=10)
    except httpx.TransportError:
        stage.diary.canceled.add(walk_id)  # it may have succeeded anyway
        raise Miss from None
    if answer.status_code in {200, 503}:
        stage.diary.canceled.add(walk_id)
    elif answer.status_code not in {404, 409}:  # too late, or deleted
        stage.wrong(f"a cancellation was answered with {answer.status_code}")


@row("work", "canceled while queued")
def _(stage: Stage) -> None:
    _cancel(stage, "queued")


@row("work", "canceled while running")
def _(stage: Stage) -> None:
    _cancel(stage, "running")


@row("work", "canceled while assembling")
def _(stage: Stage) -> None:
    _cancel(stage, "assembling")
