"""The whole system on one machine, without containers: each part is a child process, all data is in one folder.

PostgreSQL and Valkey are those of production, installed from wheels; the bucket is an emulator.
"""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import psycopg
import redis

from momalisa.errors import LocalSystemError
from momalisa.local import gpus, postgres, programs
from momalisa.local.processes import Child, free_port, is_free
from momalisa.settings import ROOT, environment, settings

FOLDER = ROOT / ".momalisa"
START_SECONDS = 60
STOP_SECONDS = 15
"""Timeouts of a child to start, and to stop before it is killed."""

WORKERS_ON_CPU = 2

Tell = Callable[[str], None]
"""Prints a sentence for the user."""


class LocalStack:
    """PostgreSQL, Valkey, the bucket, the API, the workers and the reconciler, as child processes."""

    def __init__(
        self,
        folder: Path = FOLDER,
        *,
        port: int = 8000,
        workers: int | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        """Configure a system without starting it.

        Args:
            folder: for data and logs.
            port: of the website and the API, on 127.0.0.1.
            workers: number of render workers; None means one for each GPU, or WORKERS_ON_CPU.
            variables: settings of all parts, as environment variables.
        """
        self.folder = folder.resolve()
        self.url = f"http://127.0.0.1:{port}"
        self._gpus = gpus.visible()
        self.workers = workers or len(self._gpus) or WORKERS_ON_CPU
        self.children: dict[str, Child] = {}
        self._port = port
        # No proxies between the parts. Only users of this machine have access, so rate limits are off by default.
        limits = "on" if "rate_limits" in settings().model_fields_set and settings().rate_limits else "off"
        given = settings()
        self._variables = {
            "NO_PROXY": "*",
            "no_proxy": "*",
            "RATE_LIMITS": limits,
            "METRICS_HOST": given.metrics_host if "metrics_host" in given.model_fields_set else "127.0.0.1",
            **(variables or {}),
        }
        self._lock: IO[str] | None = None
        self._sockets: Path | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The settings of this system, as environment variables."""
        return dict(self._variables)

    def start(self, tell: Tell = lambda _: None) -> None:
        """Start all parts, and return when walks can be submitted.

        Raises:
            LocalSystemError: if a part cannot be started; then all are stopped.
        """
        try:
            self._take_lock()
            if not is_free(self._port):
                raise LocalSystemError(
                    f"Port {self._port} is used by another program; use another one: PORT={self._port + 1}."
                )
            tell("Starting PostgreSQL, Valkey and the bucket …")
            self.start_services(tell)
            tell("Starting the API and the workers …")
            self._start_parts()
        except OSError as error:
            self.stop()
            raise LocalSystemError(f"The system cannot be started in {self.folder}: {error}.") from error
        except BaseException:
            self.stop()
            raise

    def start_services(self, tell: Tell = lambda _: None) -> None:
        """Start only PostgreSQL, Valkey and the bucket, and migrate the database."""
        for name in ("logs", "valkey", "bucket"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if settings().webhook_secret is None:
            self._variables.setdefault("WEBHOOK_SECRET", _stored_secret(self.folder / "webhook-secret"))
        self._start_postgres(tell)
        self._start_valkey()
        self._start_bucket()
        migration = subprocess.run(
            [sys.executable, "-m", "momalisa", "migrate"],
            cwd=ROOT,
            env=environment(**self._variables),
            capture_output=True,
            text=True,
            check=False,
        )
        if migration.returncode:
            raise LocalSystemError(f"The database in {self.folder} cannot be used. {migration.stderr.strip()}")

    def announce(self) -> None:
        """Publish the URL of the system for other commands on this machine (`running`)."""
        assert self._lock
        self._lock.truncate(0)
        self._lock.write(json.dumps({"url": self.url, "database_url": self._variables["DATABASE_URL"]}))
        self._lock.flush()

    def supervise(self, tell: Tell) -> None:
        """Restart children that have ended; call it regularly.

        Raises:
            LocalSystemError: if a child ends too often, or cannot work as configured.
        """
        for child in self.children.values():
            code = child.ended()
            if code is not None:
                child.restart()
                tell(f"{child.name} ended (exit code {code}) and was restarted.")

    def stop(self) -> None:
        """Stop all parts: first API, workers and reconciler, then the services."""
        services = ["bucket", "valkey", "postgres"]
        for names in ([name for name in self.children if name not in services], services):
            group = [self.children[name] for name in names if name in self.children]
            deadline = time.monotonic() + STOP_SECONDS
            for child in group:
                child.signal_stop()
            for child in group:
                child.wait_stopped(deadline)
        self.children.clear()
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        """Lock the folder. The lock ends with the process, so it cannot be stale."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            url = running(self.folder)
            raise LocalSystemError(
                f"MoMALisa is already running in {self.folder}, at {url}; stop it first with Ctrl-C."
                if url
                else f"Another MoMALisa command uses {self.folder}; wait for it to finish, or stop it with Ctrl-C."
            ) from None
        lock.truncate(0)
        self._lock = lock

    def _start_postgres(self, tell: Tell) -> None:
        place = postgres.find_place(self.folder / "postgres", tell)
        self._sockets = Path(tempfile.mkdtemp(prefix="momalisa-"))  # a short path, as sockets need
        if place.user:
            shutil.chown(self._sockets, place.user)
        postgres.prepare(place)
        # No password: the socket is in a folder that only this user may enter, and there is no TCP port.
        self._start(
            "postgres",
            [str(place.programs / "postgres"), "-D", str(place.data), "-k", str(self._sockets), "-h", ""],
            user=place.user,
            stop_signal=signal.SIGINT,  # "fast": does not wait for clients
        )
        self._variables["DATABASE_URL"] = f"postgresql+psycopg://momalisa@/postgres?host={self._sockets}"
        self._until_ready(
            "postgres",
            lambda: psycopg.connect(host=str(self._sockets), user="momalisa", dbname="postgres").close(),
        )

    def _start_valkey(self) -> None:
        port = free_port()
        # Nothing is stored on disk: losing wake-up messages does no harm.
        self._start(
            "valkey",
            [
                str(programs.valkey()),
                *("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"),
                *("--dir", str(self.folder / "valkey"), "--maxmemory-policy", "noeviction"),
            ],
        )
        self._variables["BROKER_URL"] = f"redis://127.0.0.1:{port}/0"
        self._until_ready("valkey", lambda: redis.Redis(port=port).ping())

    def _start_bucket(self) -> None:
        host, port = _bucket_address(self.folder / "bucket-address")
        url = f"http://{host}:{port}"
        self._start(
            "bucket",
            [
                str(programs.bucket_emulator()),
                *("-scheme", "http", "-host", host, "-port", str(port), "-log-level", "warn"),
                *("-backend", "filesystem", "-filesystem-root", str(self.folder / "bucket")),
                *("-external-url", url, "-public-host", f"{host}:{port}"),
            ],
        )
        self._variables["BUCKET_ENDPOINT"] = url
        self._until_ready("bucket", lambda: httpx.get(f"{url}/storage/v1/b", trust_env=False).raise_for_status())

    def _start_parts(self) -> None:
        python = [sys.executable, "-m"]
        threads = settings().threads or max(1, _cores() // self.workers)
        for number in range(1, self.workers + 1):
            name = f"render-{number}"
            port = self._metrics_port(2 + number)
            gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[(number - 1) % len(self._gpus)]} if self._gpus else {}
            variables = {"THREADS": str(threads), "METRICS_PORT": port, **gpu}
            self._start(name, [*python, "worker", "render"], **variables)  # type: ignore[arg-type] # none is `user`
        self._start("assemble-1", [*python, "worker", "assemble"], METRICS_PORT=self._metrics_port(2))
        self._start("reconciler", [*python, "momalisa", "reconcile"], METRICS_PORT=self._metrics_port(1))
        self._start(
            "api",
            [*python, "api"],
            HOST="127.0.0.1",
            PORT=str(self._port),
            SECRET_KEYS=self._secret_keys(),
            BUCKET_PUBLIC_URL=self._variables.get("BUCKET_PUBLIC_URL", "/files"),
            METRICS_PORT=self._metrics_port(0),
        )
        self._until_ready("api", lambda: httpx.get(f"{self.url}/readyz", trust_env=False).raise_for_status())

    def _metrics_port(self, place: int) -> str:
        """Return the METRICS_PORT of a part; empty if metrics are off."""
        first = self._variables.get("METRICS_PORT") or settings().metrics_port
        return "" if first is None else str(int(first) + place)

    def _secret_keys(self) -> str:
        """Return SECRET_KEYS, or one key that is generated once and stored."""
        if given := self._variables.get("SECRET_KEYS"):
            return given
        if configured := settings().secret_keys:
            return ",".join(key.get_secret_value() for key in configured)
        file = self.folder / "secret-keys"
        if not file.exists():
            _write_private(file, secrets.token_urlsafe(32))
        return file.read_text()

    def _start(
        self,
        name: str,
        command: list[str],
        *,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        **variables: str,
    ) -> None:
        log = self.folder / "logs" / f"{name}.log"
        log.unlink(missing_ok=True)
        child = Child(name, command, log, {**self._variables, **variables}, user, stop_signal)
        self.children[name] = child
        child.start()

    def _until_ready(self, name: str, probe: Callable[[], object]) -> None:
        child = self.children[name]
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                probe()
            except (psycopg.OperationalError, redis.RedisError, httpx.HTTPError) as error:
                if child.ended() is not None or time.monotonic() > deadline:
                    raise LocalSystemError(
                        f"{name} does not start. The end of its log ({child.log}):\n{child.last_lines()}"
                    ) from error
                time.sleep(0.05)
            else:
                return


@contextlib.contextmanager
def started(system: LocalStack, tell: Callable[[str], None] = lambda _: None) -> Iterator[LocalStack]:
    """Run a system during a block."""
    try:
        system.start(tell)
        yield system
    finally:
        system.stop()


def running(folder: Path = FOLDER) -> str | None:
    """Return the URL of the system running in a folder, or None."""
    return _announced(folder).get("url")


def running_database(folder: Path = FOLDER) -> str | None:
    """Return the SQLAlchemy URL of the database of the system running in a folder, or None."""
    return _announced(folder).get("database_url")


def _announced(folder: Path) -> dict[str, str]:
    try:
        with (folder / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                announced: dict[str, str] = json.load(lock)
                return announced
            return {}
    except (FileNotFoundError, PermissionError, ValueError):
        return {}


def _stored_secret(file: Path) -> str:
    """Return the secret in a file for signing webhooks; it is generated at the first call."""
    if not file.exists():
        _write_private(file, f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
    return file.read_text().strip()


def _bucket_address(file: Path) -> tuple[str, int]:
    """Return the address of the bucket: the same at every start, unless it is in use.

    The emulator needs no credentials and allows all origins, so any page in a browser on this machine could use it.
    Therefore its address is a random one of the 2^24 loopback addresses, which pages cannot guess. On systems with
    only 127.0.0.1, such as macOS, only the port is random.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        host, _, port = file.read_text().strip().rpartition(":")
        if is_free(int(port), host):
            return host, int(port)
    host = f"127.{secrets.randbelow(255)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
    try:
        port_ = free_port(host)
    except OSError:
        host, port_ = "127.0.0.1", free_port()
    _write_private(file, f"{host}:{port_}\n")
    return host, port_


def _write_private(file: Path, text: str) -> None:
    """Write a file atomically that only this user may read."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.rename(file)


def _cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
