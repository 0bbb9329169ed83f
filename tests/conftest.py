"""Fixtures: real services (PostgreSQL, Valkey, the bucket), the API, workers, a browser."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from momalisa import description
from momalisa.client import Client
from momalisa.db import notifications, session
from momalisa.db.models import Base
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import celery_app, estimate
from momalisa.settings import settings
from momalisa.storage import bucket, signed_urls
from tests.chromium import launch_options
from worker.process.worker import Worker
from worker.rendering.pipeline import Renderer

hypothesis.settings.register_profile("usual", deadline=None)
hypothesis.settings.register_profile("long", max_examples=600, deadline=None)  # usually 100
hypothesis.settings.load_profile("usual")

_folder: str | None = None
"""What `pytest_configure` made."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in a folder of this run alone, as root.

    By default, pytest closes the folder that all runs share to other users whenever a run starts. PostgreSQL, which
    root runs as another user, would lose its data in the middle of another run.
    """
    global _folder  # noqa: PLW0603 - set once
    if os.geteuid() == 0 and config.option.basetemp is None:
        config.option.basetemp = _folder = tempfile.mkdtemp(prefix="momalisa-tests-")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    """Remove the folder, unless a test failed."""
    if _folder and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(_folder, ignore_errors=True)


def clear_caches() -> None:
    """Clear the caches of this process: its settings, and everything that depends on them."""
    notifications.finish()
    if session.engine.cache_info().currsize:
        pool = session.engine().pool
        assert isinstance(pool, QueuePool)
        until(lambda: not pool.checkedout(), 10)  # connections held by abandoned threads would never be closed
        session.engine().dispose()
    for remembered in (
        settings,
        session.engine,
        celery_app.app,
        bucket._client_bucket,
        signed_urls._signatures,
        description.of_settings,
        description.as_settings_have_it,
    ):
        remembered.cache_clear()
    estimate._cache.clear()


def empty() -> None:
    """Remove all rows and all messages."""
    with transaction() as session:
        session.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
    celery_app.app().control.purge()


def run_retention() -> None:
    """Run each retention task of the reconciler once."""
    for task in (reconciler.end_overdue, reconciler.expire, reconciler.delete_old_records, reconciler.remove_walks):
        task()


@pytest.fixture(scope="session")
def _services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    system = LocalStack(
        tmp_path_factory.mktemp("services"), variables={"RATE_LIMITS": "off", "SECRET_KEYS": "s" * 32}
    )
    try:
        system.start_services()
        yield system
    finally:
        system.stop()


@pytest.fixture
def services(_services: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    """PostgreSQL, Valkey and a bucket without workers, empty, as this process's own settings."""
    for name, value in _services.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(estimate, "CACHE_FACTOR", 0)  # tests expect changes at once
    clear_caches()
    empty()
    yield _services
    clear_caches()


@pytest.fixture
def private_bucket(services: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> rsa.RSAPublicKey:
    """A bucket whose URLs are signed by the key of a service account; returns its public half."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    file = tmp_path / "account.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "momalisa",
                "private_key": pem,
                "client_email": "api@momalisa.example",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("SIGNED_URLS", "true")
    monkeypatch.setenv("SIGNED_URL_SECONDS", "3600")
    clear_caches()
    return key.public_key()


@pytest.fixture
def api(services: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The API in this process, without workers behind it."""
    from api.app import app  # noqa: PLC0415

    # The entity tag of a queued walk changes every ten seconds, which may end between any two requests of a test.
    monkeypatch.setattr("api.live.long_polling.QUEUE_SECONDS", 10**6)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The whole system with two render workers, in processes of its own."""
    with stack.started(LocalStack(tmp_path_factory.mktemp("system"), port=free_port())) as running:
        yield running


def wait_for_workers(system: LocalStack) -> None:
    """Wait until every render worker of a system has loaded and warmed up its model."""
    logs = [child.log for name, child in system.children.items() if name.startswith("render-")]
    until(lambda: all('"renderer ready"' in log.read_text() for log in logs), 300)


def until(look: Callable[[], object], seconds: float = 60, pause: float = 0.05) -> None:
    """Poll until `look` returns something true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(pause)


@pytest.fixture
def client(system: LocalStack) -> Iterator[Client]:
    """A client of the whole system."""
    with Client(system.url) as client:
        yield client


@pytest.fixture
def worker() -> Worker:
    """A worker in this process, without Celery."""
    return Worker()


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    """The renderer with the bundled model."""
    return Renderer(settings().model, batch_size=4)


@pytest.fixture(scope="session")
def spec() -> Callable[..., WalkSpec]:
    """A factory of specs that render fast; pass only what matters to the test."""

    def make(**changes: Any) -> WalkSpec:
        defaults: dict[str, Any] = {
            "prompts": ("a giraffe", "a battleship"),
            "frames": 4,
            "seed": 7,
            "negative_prompt": "",
            "steps": 3,
            "guidance": 4.0,
            "width": 128,
            "height": 128,
            "fps": 12,
        }
        return WalkSpec(**{**defaults, **changes})

    return make


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Start the browser of `tests.chromium`."""
    return {**browser_type_launch_args, **launch_options()}
