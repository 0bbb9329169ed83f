"""Faults of the broker, of PostgreSQL, of PgBouncer, and of the bucket."""

import contextlib
import signal
import time
from typing import Any

import httpx
import psycopg
import redis

from momalisa.local.processes import free_port
from tests.chaos.faults.matrix import Miss, row
from tests.chaos.proxy import Trouble
from tests.chaos.stage import LEASE_SECONDS, Stage
from tests.frozen import frozen

Command = tuple[str | int, ...]
"""Redis commands with their arguments."""


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
            ready = stage.until(lambda: stage.answers(http), seconds=20)
            if ready and stage.submit(http) is None:
                stage.wrong("a walk was not accepted while the broker was down")


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
    stage.plant(f"walks/{walk_id}/{secret}/frames/{position:.9f}.png", b"another picture")
