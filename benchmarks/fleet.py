"""A system whose workers are started as needed and whose statements are counted, and visitors who use it."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from momalisa.domain.states import ChunkKind
from momalisa.local import stack
from momalisa.local.processes import Child
from momalisa.local.stack import LocalStack
from momalisa.queue.celery_app import queue_name

WALK: dict[str, Any] = {
    "prompts": ["a giraffe", "a battleship"],
    "frames": 24,
    "steps": 20,
    "width": 512,
    "height": 512,
}
"""A walk of the backlog: evenly paced, in about three passes, as by default."""

PARTS = ("api", "reconciler", "render", "assemble")
"""The parts; each has its own database role, so that its statements can be counted."""

CONNECTIONS = 400
"""`max_connections` of PostgreSQL. A render worker needs one; a second one if a report and a heartbeat coincide."""


class Bench(LocalStack):
    """A system without workers, which are started as needed."""

    def _start_parts(self) -> None:
        self._count_statements()
        self._start("reconciler", [sys.executable, "-m", "momalisa", "reconcile"], **self.role("reconciler"))
        api: dict[str, Any] = {
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "SECRET_KEYS": "s" * 32,
            **self.role("api"),
        }
        self._start("api", [sys.executable, "-m", "api"], **api)
        ready = f"{self.url}/readyz"
        self._until_ready("api", lambda: httpx.get(ready, trust_env=False).raise_for_status())

    def _count_statements(self) -> None:
        """Restart PostgreSQL so that it counts all statements, and give each part a role."""
        library = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"
        with self.database() as database:
            for statement in (library, f"ALTER SYSTEM SET max_connections = {CONNECTIONS}"):
                database.execute(statement)
        server = self.children["postgres"]
        server.signal_stop()
        server.wait_stopped(time.monotonic() + stack.STOP_SECONDS)
        server.start()
        self._until_ready("postgres", lambda: self.connect().close())
        with self.database() as database:
            database.execute("CREATE EXTENSION pg_stat_statements")
            for part in PARTS:
                database.execute(f"CREATE ROLE {part} SUPERUSER LOGIN")

    def role(self, part: str) -> dict[str, Any]:
        """Return the settings with the database role of a part."""
        return {"DATABASE_URL": self._variables["DATABASE_URL"].replace("//momalisa@", f"//{part}@")}

    def connect(self) -> psycopg.Connection:
        """Connect to the database with the role of the benchmark."""
        return psycopg.connect(
            host=str(self._sockets), user="momalisa", dbname="postgres", autocommit=True, connect_timeout=5
        )

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """Yield a connection during the block."""
        with self.connect() as connection:
            yield connection

    def worker(self, name: str, kind: str, concurrency: int, chunk_seconds: float) -> Child:
        """Start a Celery worker with a number of children."""
        app = "benchmarks.simulated" if kind == "render" else "worker.tasks"
        celery = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queue_name(ChunkKind(kind))]
        celery += ["-n", name, "--pool", "prefork", "--concurrency", str(concurrency)]
        celery += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        spans = self.folder / "spans"
        spans.mkdir(exist_ok=True)
        variables: dict[str, Any] = {"SPANS": str(spans), "CHUNK_SECONDS": str(chunk_seconds), **self.role(kind)}
        self._start(name, celery, **variables)
        return self.children[name]

    def dismiss(self, *names: str) -> None:
        """Stop workers as Kubernetes does, and wait until they have exited."""
        for name in names:
            self.children[name].signal_stop()
        for name in names:
            self.children.pop(name).wait_stopped(time.monotonic() + stack.STOP_SECONDS)

    def spans(self) -> dict[str, list[tuple[float, float]]]:
        """Return when each process of a render worker rendered; open intervals end at infinity."""
        found = {}
        for file in (self.folder / "spans").iterdir():
            notes = [line.split() for line in file.read_text().splitlines()]
            begins = [float(moment) for moment, what in notes if what == "begin"]
            ends = [float(moment) for moment, what in notes if what == "end"]
            found[file.name] = list(zip(begins, [*ends, math.inf], strict=False))
        return found

    def empty(self) -> None:
        """Delete all walks, statistics and records."""
        with self.database() as database:
            database.execute("TRUNCATE walks, webhook_deliveries, idempotency_keys CASCADE")
        for file in (self.folder / "spans").glob("*"):
            file.unlink()

    def statements(self) -> dict[str, int]:
        """Return the number of statements of each part so far; BEGIN with its timeouts is one, COMMIT another."""
        counts = (
            "SELECT rolname, sum(calls)::bigint FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid"
            " WHERE query NOT LIKE 'SET LOCAL %' GROUP BY rolname"
        )
        with self.database() as database:
            found: dict[str, int] = dict(database.execute(counts).fetchall())
        return {part: found.get(part, 0) for part in PARTS}

    def number(self, query: str) -> int:
        """Return the number that a query returns."""
        with self.database() as database:
            [[found]] = database.execute(query).fetchall()
        return int(found)


@dataclass
class Visitor:
    """A visitor who submits and polls through the API, and records how long that takes."""

    url: str
    submitted: list[float] = field(default_factory=list)
    polled: list[float] = field(default_factory=list)
    walk: str = ""

    def submit(self, http: httpx.Client, order: dict[str, Any]) -> None:
        """Submit a walk."""
        started = time.monotonic()
        answer = http.post("/v1/walks", json=order).raise_for_status()
        self.submitted.append(time.monotonic() - started)
        self.walk = answer.json()["id"]

    def poll(self, http: httpx.Client) -> None:
        """Poll the last walk, with all its frames."""
        started = time.monotonic()
        http.get(f"/v1/walks/{self.walk}").raise_for_status()
        self.polled.append(time.monotonic() - started)

    def client(self) -> httpx.Client:
        """Return a client of the API, without proxies."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Submit once a second and poll four times as often, during the block."""
        over = threading.Event()

        def visit() -> None:
            with self.client() as http:
                while not over.is_set():
                    self.submit(http, WALK)
                    for _ in range(4):
                        self.poll(http)
                        over.wait(0.2)

        thread = threading.Thread(target=visit)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def submit_many(bench: Bench, walks: int, order: dict[str, Any]) -> None:
    """Submit walks through the API, four at a time."""
    with Visitor(bench.url).client() as http:

        def some(count: int) -> None:
            for _ in range(count):
                http.post("/v1/walks", json=order).raise_for_status()

        threads = [threading.Thread(target=some, args=[len(range(part, walks, 4))]) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def wait_until(holds: Callable[[], object], seconds: float) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: if it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.1)
