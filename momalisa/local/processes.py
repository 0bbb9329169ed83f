"""Supervised child processes, which end with their parent."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from momalisa.errors import LocalSystemError
from momalisa.settings import ROOT, environment

PR_SET_PDEATHSIG = 1
"""`prctl(2)`: signal for a child when its parent dies."""

CANNOT_WORK = os.EX_CONFIG
"""Exit code if a restart would not help; the last line of the program's log says why."""

LIMIT, WINDOW_SECONDS = 5, 60
"""A program that ended more than LIMIT times within WINDOW_SECONDS is not restarted."""


@dataclass
class Child:
    """A program that runs while the system runs."""

    name: str
    command: list[str]
    log: Path
    variables: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None
    ends: list[float] = field(default_factory=list)
    """When it ended, in monotonic seconds."""

    def start(self) -> None:
        """Start the program in its own session, so that Ctrl-C reaches only this process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self.command,
                cwd=ROOT,
                env=environment(**self.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.user),
                preexec_fn=die_with_parent(self.stop_signal),  # noqa: PLW1509
            )

    def ended(self) -> int | None:
        """Return the exit code, or None while the program runs."""
        return self.process.poll() if self.process else None

    def restart(self) -> None:
        """Restart the program after it has ended.

        Raises:
            LocalSystemError: if it ends too often, or has ended with CANNOT_WORK.
        """
        if self.ended() == CANNOT_WORK:
            raise LocalSystemError(f"{self.name} cannot start. {self.last_lines(1)}")
        now = time.monotonic()
        self.ends = [moment for moment in self.ends if now - moment < WINDOW_SECONDS] + [now]
        if len(self.ends) > LIMIT:
            raise LocalSystemError(
                f"{self.name} keeps ending (exit code {self.ended()}). The end of its log ({self.log}):\n"
                f"{self.last_lines()}"
            )
        self.start()

    def signal_stop(self) -> None:
        """Send the program its stop signal."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)

    def wait_stopped(self, deadline: float) -> None:
        """Wait until the program has stopped, and kill its whole session at the deadline (monotonic seconds)."""
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


def die_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what a new process must call to get a signal when its parent dies; None where that is not possible."""
    if sys.platform != "linux":
        return None

    def call() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, stop_signal)

    return call


def free_port(address: str = "127.0.0.1") -> int:
    """Return a free port on an address of this machine.

    Raises:
        OSError: if this machine does not have the address.
    """
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether a port is free on an address of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def as_user(user: str | None) -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` to run a program as another user, in its group only."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def system_user(name: str) -> str:
    """Return the name of a system user, which root creates if it does not exist.

    Raises:
        LocalSystemError: if it cannot be created.
    """
    if not _is_user(name):
        useradd = shutil.which("useradd")
        command = [useradd or "useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
        failed = useradd is None or subprocess.run(command, check=False, capture_output=True).returncode  # noqa: S603
        if failed and not _is_user(name):  # another process may have created it in the meantime
            raise LocalSystemError(
                f"PostgreSQL refuses to run as root, and its user {name} cannot be created. "
                "Run MoMALisa as an ordinary user."
            )
    return name


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
