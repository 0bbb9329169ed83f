"""The stage: the whole system in separate processes, with access to its parts from outside."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import redis

from momalisa.local.processes import Child
from momalisa.storage import bucket
from tests import pooler
from tests.chaos import clock
from tests.chaos.proxy import Proxy, Trouble
from tests.pooler import Pooled

LEASE_SECONDS = 3.0
BATCH_SIZE = 4
QUEUE_PREFIX = "chaos:"

SICK = "render-1"
"""The render worker that fails where others succeed."""

STALL_SECONDS = LEASE_SECONDS + sum(bucket.TIMEOUT)
"""Longer than one attempt of an upload, so that a hanging bucket does not end a worker."""

ORDERS: list[dict[str, Any]] = [
    {"prompts": ["a giraffe", "a battleship"], "frames": 4, "seed": 7, "steps": 3, "pacing": "linear"},
    {"prompts": ["a cat", "a castle"], "frames": 10, "seed": 3, "steps": 2, "loop": "pingpong", "hold": 2},
    {
        "prompts": ["an apple", "a planet", "a rocket"],
        "weights": [1, 3, 1],
        "frames": 16,
        "seed": 5,
        "seed_to": 6,
        "steps": 2,
        "fps": 24,
        "easing": "ease-in-out",
        "interpolation": "slerp",
        "loop": "closed",
    },
    {"prompts": ["a fox", "a sailing boat"], "frames": 64, "seed": 1, "steps": 2, "guidance": 1.0},
]
"""The requests of visitors, mostly evenly paced in several passes; the last one is dense enough for interpolation.

All walks of one request must be equal.
"""


@dataclass
class Lost:
    """A chunk that a fault took from its worker."""

    at: datetime
    walk_id: str
    number: int


@dataclass
class Diary:
    """A record of events, for the oracle."""

    accepted: dict[str, int] = field(default_factory=dict)
    """The request of each walk that was accepted with 202."""
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    """The cookies of the visitor who created each walk."""
    canceled: set[str] = field(default_factory=set)
    poisoned: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    seen: dict[str, list[str]] = field(default_factory=dict)
    """The statuses in which each walk was seen, in order, without repetition."""
    lost: list[Lost] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)

    def accept(self, answer: httpx.Response, order: int, visitor: httpx.Client) -> str:
        """Record a walk that was accepted with 202, and return its id."""
        walk_id: str = answer.json()["id"]
        self.cookies[walk_id] = dict(visitor.cookies)
        self.accepted[walk_id] = order
        return walk_id


def lacking() -> str | None:
    """Return a sentence that names missing programs, if any."""
    if not pooler.runs():
        return "PgBouncer does not run here; install Debian's package pgbouncer."
    if clock.LIBRARY is None:
        return "libfaketime is not here, which lets PostgreSQL's clock step; install Debian's package libfaketime."
    return None


class Stage(Pooled):
    """The system, with a proxy in front of its bucket, PgBouncer for half of its parts, and access for faults.

    The other half connects to PostgreSQL directly, as an API must to receive notifications. So do the faults.
    """

    def __init__(self, folder: Path, *, port: int, workers: int, seed: int, outage: float) -> None:
        super().__init__(
            folder,
            port=port,
            workers=workers,
            variables={
                "LEASE_SECONDS": str(LEASE_SECONDS),
                "RECONCILE_SECONDS": "1",
                "STALL_SECONDS": str(STALL_SECONDS),
                "BATCH_SIZE": str(BATCH_SIZE),
                "RATE_LIMITS": "off",
                "QUEUE_PREFIX": QUEUE_PREFIX,
            },
        )
        self.random = random.Random(seed)
        parts = ["api", "assemble-1", "reconciler", *(f"render-{number}" for number in range(1, workers + 1))]
        self.pooled = sorted(self.random.sample(parts, len(parts) // 2))
        """Parts that reach PostgreSQL through PgBouncer."""
        self.diary = Diary()
        self.held: set[str] = set()
        """Children that must stay down for now."""
        self.submitting = threading.RLock()
        """Held while a walk is submitted."""
        self.bucket_url = ""
        self._outage = outage
        self._full_outages: set[str] = set()
        self._outages = threading.Lock()

    # Parts

    def _start_bucket(self) -> None:
        super()._start_bucket()
        self.bucket_url = self._variables["BUCKET_ENDPOINT"]
        self.proxy = Proxy(self.bucket_url)
        self._variables["BUCKET_ENDPOINT"] = self.proxy.url
        self.way_of_one = Proxy(self.proxy.url)

    def _start(self, name: str, command: list[str], **options: Any) -> None:
        """Start a part: PostgreSQL with its clock, others with their routes to it and to the bucket."""
        if name == SICK:
            options["BUCKET_ENDPOINT"] = self.way_of_one.url
        if name == "postgres":
            assert self._sockets
            self.clock = clock.Clock(self._sockets)
            options |= self.clock.variables
        if self.direct_url and name not in self.pooled:
            options["DATABASE_URL"] = self.direct_url
        super()._start(name, command, **options)

    def close_proxies(self) -> None:
        """Stop forwarding to the bucket."""
        for proxy in (self.way_of_one, self.proxy):
            proxy.close()

    def tend(self) -> None:
        """Restart children that ended; only the main thread may, because they die with the thread."""
        for name, child in self.children.items():
            if name not in self.held and child.ended() is not None:
                child.start()

    def child(self, name: str) -> Child:
        """Return a part by name."""
        return self.children[name]

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """Return the process of a part, waiting until it exists."""
        process: subprocess.Popen[bytes] = self.until(
            lambda: p if (p := self.child(name).process) and p.poll() is None else None
        )
        assert process
        return process

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL, *, group: bool = False) -> None:
        """Send a signal to a part, or to the whole group of its processes."""
        pid = self.process(name).pid
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(pid, how)

    @contextmanager
    def down(self, name: str, how: signal.Signals = signal.SIGKILL, *, row: str) -> Iterator[None]:
        """Keep a part down during the block and the outage."""
        self.held.add(name)
        try:
            process = self.process(name)
            process.send_signal(how)
            process.wait(30)
            ends = time.monotonic() + self.outage(row)
            yield
            time.sleep(max(0.0, ends - time.monotonic()))
        finally:
            self.held.discard(name)

    def outage(self, row: str) -> float:
        """Return how long an outage lasts, in seconds: the maximum for the first fault of a kind, then less."""
        with self._outages:
            if row not in self._full_outages:
                self._full_outages.add(row)
                return self._outage
            return self.random.uniform(0.5, 1.5) * LEASE_SECONDS

    @contextmanager
    def trouble(self, kind: Trouble, row: str) -> Iterator[None]:
        """Make the bucket fail during an outage, once it is in use."""
        with self.busy("render"):
            self.proxy.trouble = kind
            time.sleep(self.outage(row))
            self.proxy.trouble = None
            yield

    # Looking

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection to PostgreSQL, waiting until it is up."""

        def connect() -> psycopg.Connection[Any] | None:
            try:
                return psycopg.connect(host=str(self._sockets), user="momalisa", dbname="postgres", autocommit=True)
            except psycopg.OperationalError:
                return None

        connection = self.until(connect)
        assert connection
        with connection:
            yield connection

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Query PostgreSQL, waiting until it answers."""

        def ask() -> list[tuple[Any, ...]] | None:
            try:
                with self.database() as connection:
                    cursor = connection.execute(query, parameters)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                return None

        found = self.until(ask)
        return found if found is not None else []

    def until(self, look: Callable[[], Any], seconds: float = 60) -> Any:
        """Poll until `look` returns something true, and return it; None if it does not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = look()
            if found is not None and found is not False:
                return found
            time.sleep(0.02)
        return None

    @contextmanager
    def busy(self, kind: str) -> Iterator[tuple[str, int, str] | None]:
        """Yield a part that is working on a chunk of a kind, its worker's pid, and the walk; or None."""
        found = self.until(lambda: self._busy(kind), seconds=20)
        yield found

    def _busy(self, kind: str) -> tuple[str, int, str] | None:
        leased = self.rows(
            "SELECT walk_id::text, number, worker FROM chunks WHERE status = 'leased' AND kind = %s"
            " ORDER BY random()",
            kind,
        )
        for walk_id, _, worker in leased:
            pid = int(worker.split(":")[1])
            for name, child in list(self.children.items()):
                process = child.process
                if not name.startswith(kind) or not process or process.poll() is not None:
                    continue
                with contextlib.suppress(psutil.NoSuchProcess):
                    if pid in {grandchild.pid for grandchild in psutil.Process(process.pid).children()}:
                        return name, pid, walk_id
        return None

    def mark_lost(self, pid: int) -> None:
        """Record which chunk the worker with this pid held when a fault hit it."""
        held = self.rows(
            "SELECT walk_id::text, number FROM chunks WHERE status = 'leased' AND worker LIKE %s", f"%:{pid}"
        )
        for walk_id, number in held:
            self.diary.lost.append(Lost(datetime.now(UTC), walk_id, number))

    def wrong(self, what: str) -> None:
        """Record a violation."""
        self.diary.wrongs.append(what)

    def broker(self) -> redis.Redis:
        """Return a client of the broker."""
        return redis.Redis.from_url(self._variables["BROKER_URL"], socket_timeout=5)

    def object_url(self, name: str) -> str:
        """Return where the bucket's API has an object."""
        return f"{self.bucket_url}/storage/v1/b/momalisa/o/{name.replace('/', '%2F')}"

    def plant(self, name: str, data: bytes) -> None:
        """Upload an object, or replace it."""
        url = f"{self.bucket_url}/upload/storage/v1/b/momalisa/o"
        parameters = {"uploadType": "media", "name": name}
        headers = {"Content-Type": "image/png"}
        httpx.post(url, params=parameters, content=data, headers=headers).raise_for_status()

    # Visiting

    def answers(self, http: httpx.Client) -> bool:
        """Return whether the API is ready."""
        try:
            return http.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False

    def submit(self, http: httpx.Client, order: int | None = None) -> str | None:
        """Submit a walk and return its id; None if it was not accepted, or that is unknown."""
        number = self.random.randrange(len(ORDERS)) if order is None else order
        try:
            with self.submitting:
                answer = http.post(f"{self.url}/v1/walks", json=ORDERS[number])
        except httpx.TransportError:
            return None
        if answer.status_code == 503:
            if "retry-after" not in answer.headers:
                self.wrong("a 503 without Retry-After")
            return None
        if answer.status_code != 202:
            self.wrong(f"a submission was answered with {answer.status_code}: {answer.text[:200]}")
            return None
        return self.diary.accept(answer, number, http)
