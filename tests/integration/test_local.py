"""The whole system on one machine: it starts, keeps its walks, and leaves nothing behind when it stops."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from momalisa.cli import main
from momalisa.cli.terminal import Stopped
from momalisa.client import Client
from momalisa.errors import LocalSystemError
from momalisa.local import postgres, processes, stack
from momalisa.local.processes import LIMIT, Child, free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, settings

STOP = 90
"""Timeout for a system to stop, on a slow machine, in seconds."""


@contextmanager
def up(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run `momalisa up` until it is ready; it is killed if the block has not stopped it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "momalisa", "up", "--port", str(port), "--folder", str(folder), "--workers", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("MoMALisa runs at"):
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sigkill_and_ctrl_c_end_every_child_and_walks_are_kept(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with up(tmp_path, port) as process:
        secret = (tmp_path / "secret-keys").read_text()
        assert (tmp_path / "secret-keys").stat().st_mode & 0o777 == 0o600
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 8  # PostgreSQL, Valkey, bucket, API, two workers, reconciler
        assert stack.running(tmp_path) == url
        assert "postgresql" in (stack.running_database(tmp_path) or "")
        with Client(url) as client:
            walk = client.submit(["a cat", "a castle"], frames=2, steps=1)
            *_, done = client.watch(walk)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=STOP)
        assert alive == []
    with up(tmp_path, port) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        assert (tmp_path / "secret-keys").read_text() == secret
        with Client(url) as client:
            again = client.get(walk["id"])
            assert again["status"] == done["status"] == "succeeded"
            # At the same address, which an open page still uses.
            assert len(client.download(done["artifacts"]["gif"]["url"])) == done["artifacts"]["gif"]["bytes"]
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP) == 0
        psutil.wait_procs(children, timeout=5)
        assert [child for child in children if child.is_running()] == []


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_stops_on_a_signal(asked: signal.Signals) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(Stopped), main._signals_raised():
            signal.raise_signal(asked)
    finally:
        signal.signal(signal.SIGHUP, handlers[2])
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_a_taken_port_gets_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalSystemError, match=rf"Port {port} is used by .* PORT={port + 1}"):
            LocalStack(tmp_path, port=port).start()
    assert stack.running(tmp_path) is None


def test_a_folder_in_use_gets_one_clear_sentence(tmp_path: Path) -> None:
    system = LocalStack(tmp_path, variables={"DATABASE_URL": "postgresql://"})
    system._take_lock()  # as it does before anything else
    try:
        with pytest.raises(LocalSystemError, match=r"Another MoMALisa command uses .*; wait"):
            LocalStack(tmp_path, port=free_port()).start()
        assert stack.running(tmp_path) is None  # other users may not read it
        system.announce()
        with pytest.raises(LocalSystemError, match=f"already running in .*, at {system.url}"):
            LocalStack(tmp_path, port=free_port()).start()
        assert stack.running(tmp_path) == system.url
    finally:
        system.stop()


def test_a_child_that_ends_is_restarted(services: LocalStack) -> None:
    messages: list[str] = []
    child = services.children["bucket"]
    assert child.process
    before = child.process.pid
    child.process.kill()
    child.process.wait()
    services.supervise(messages.append)
    assert messages == ["bucket ended (exit code -9) and was restarted."]
    assert child.process.pid != before
    assert child.ended() is None
    services._until_ready("bucket", lambda: httpx.get(f"{services.variables['BUCKET_ENDPOINT']}/storage/v1/b"))


def test_a_child_that_does_not_start_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(LocalSystemError, match="postgres does not start"):
        LocalStack(tmp_path, port=free_port()).start()
    assert stack.running(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("useradd"), reason="only root can make users")
def test_two_systems_that_start_concurrently_create_one_user() -> None:
    name = f"momalisa-test-{os.getpid()}"
    try:
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(processes.system_user, [name] * 4)) == {name}
    finally:
        subprocess.run(["userdel", name], check=True)


def test_a_child_that_keeps_ending_ends_the_system(tmp_path: Path) -> None:
    child = Child("broken", [sys.executable, "-c", "print('no luck'); raise SystemExit(3)"], tmp_path / "log")
    child.start()
    for _ in range(LIMIT):
        child.wait_stopped(time.monotonic() + 10)
        child.restart()
    child.wait_stopped(time.monotonic() + 10)
    with pytest.raises(LocalSystemError, match=r"broken keeps ending \(exit code 3\)[^!]*no luck"):
        child.restart()


def test_an_interrupted_first_start_does_no_harm(tmp_path: Path) -> None:
    """initdb writes under another name until it is complete."""
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    system = LocalStack(tmp_path, port=free_port())
    try:
        system.start_services()
    finally:
        system.stop()
    assert not (tmp_path / "postgres.new").exists()
    assert (tmp_path / "postgres" / "PG_VERSION").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_closed_home_stays_closed_and_postgresql_is_kept_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    package = postgres.BIN.parent.parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, home / folder.name, symlinks=True)
    monkeypatch.setattr(postgres, "BIN", home / postgres.BIN.relative_to(package.parent))
    monkeypatch.setattr(postgres, "SHARED", tmp_path / "elsewhere")
    monkeypatch.setattr(postgres, "_homes", lambda: {home})
    messages: list[str] = []
    for _ in range(2):
        system = LocalStack(home / "x" / ".momalisa", port=free_port())
        try:
            system.start_services(messages.append)
            with psycopg.connect(host=str(system._sockets), user="momalisa", dbname="postgres") as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
                connection.execute("INSERT INTO kept VALUES (1)")
                counted = connection.execute("SELECT count(*) FROM kept").fetchone()
        finally:
            system.stop()
    assert counted == (2,)
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "x" / ".momalisa" / "postgres").readlink().parent == tmp_path / "elsewhere"
    assert f"may not enter {home}." in messages[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root runs PostgreSQL as another user.")
def test_another_run_of_tests_closes_no_folder_of_this_one(tmp_path: Path) -> None:
    for parent in postgres._closed(tmp_path / "postgres"):
        parent.chmod(parent.stat().st_mode | 0o001)  # as for PostgreSQL
    other = tmp_path / "test_other.py"
    other.write_text("def test_other(tmp_path): pass")
    subprocess.run([sys.executable, "-m", "pytest", "--config-file=/dev/null", other], cwd=tmp_path, check=True)
    assert not postgres._closed(tmp_path / "postgres")


def test_on_one_machine_metrics_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LocalStack(tmp_path).variables["METRICS_HOST"] == "127.0.0.1"
    monkeypatch.setenv("METRICS_HOST", "0.0.0.0")  # noqa: S104 - set explicitly
    settings.cache_clear()
    assert LocalStack(tmp_path).variables["METRICS_HOST"] == "0.0.0.0"  # noqa: S104
    settings.cache_clear()
