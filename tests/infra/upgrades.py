"""Upgrades of containers, as tests watch them."""

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from alembic.config import Config
from alembic.script import ScriptDirectory

from momalisa.settings import ROOT
from tests.infra.docker import Docker

IMAGES = "ghcr.io/momalisa/momalisa"
VERSION = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]


def containers(docker: Docker, service: str = "", **variables: str) -> list[dict[str, Any]]:
    """Return what the daemon knows of the containers, of all services or of one."""
    ids = docker.compose("ps", "--all", "--quiet", *([service] if service else []), **variables).split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids))
    return found


@contextmanager
def asked_all_the_time(url: str) -> Iterator[list[tuple[int | str, float]]]:
    """Ask for a page and for walks five times a second; collect the statuses and the seconds."""
    answers: list[tuple[int | str, float]] = []
    end = threading.Event()

    def ask(path: str) -> None:
        begin = time.monotonic()
        status: int | str
        try:
            answer = httpx.get(f"{url}{path}", timeout=90)
            status = answer.status_code if answer.is_success else f"{answer.status_code}: {answer.text}"
        except httpx.HTTPError as error:
            status = repr(error)
        answers.append((status, time.monotonic() - begin))

    def ask_on() -> None:
        with ThreadPoolExecutor(64) as pool:
            for number in range(10_000):
                pool.submit(ask, ("/gallery", "/v1/walks")[number % 2])
                if end.wait(0.2):
                    return

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        yield answers
    finally:
        end.set()
        asking.join()


def migrations() -> ScriptDirectory:
    """Return the migrations of this checkout."""
    return ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))


def make_next_version(docker: Docker, folder: Path, version: str, before: str, migration_seconds: int = 5) -> None:
    """Make the images of a version that differs from the one before by a slow migration, as if they were pulled."""
    made = folder / version
    made.mkdir()
    down = migrations().get_current_head() if before == VERSION else before.replace(".", "_")
    (made / f"{version}.py").write_text(
        f"""from alembic import op
revision, down_revision = "{version.replace(".", "_")}", "{down}"
def upgrade():
    op.execute("SELECT pg_sleep({migration_seconds})")
    op.execute("CREATE TABLE made_by_{version.replace(".", "_")} ()")
"""
    )
    (made / "Dockerfile").write_text(
        f"FROM {IMAGES}-api:{before}\nCOPY {version}.py /app/migrations/versions/\nENV MOMALISA_VERSION={version}\n"
    )
    docker("build", "--tag", f"{IMAGES}-api:{version}", str(made))
    docker("tag", f"{IMAGES}-worker-cpu:{before}", f"{IMAGES}-worker-cpu:{version}")


def versions(docker: Docker, **variables: str) -> set[str]:
    """Return the versions of our images that run."""
    images = {container["Config"]["Image"] for container in containers(docker, **variables)}
    return {image.rpartition(":")[2] for image in images if image.startswith(IMAGES)}
