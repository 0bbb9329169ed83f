"""The website in Chromium, which must not complain."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import ConsoleMessage, Page

from momalisa.client import Client
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack

DONE = 120_000
"""Milliseconds that a walk may take on a slow machine."""


@pytest.fixture
def quiet(page: Page) -> Iterator[Page]:
    """A page whose scripts must leave the console empty."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # What the browser says of an answer that a test makes fail is no complaint of ours.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []


@pytest.fixture
def website(system: LocalStack, quiet: Page) -> Page:
    """The website before the whole system."""
    quiet.goto(system.url)
    return quiet


@pytest.fixture
def museum(services: LocalStack) -> Iterator[str]:
    """The address of the website over a bare database and without workers: what hangs there, a test has hung."""
    from api.app import app  # noqa: PLC0415

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, name="museum")
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the API does not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def finished(system: LocalStack) -> Callable[..., dict[str, Any]]:
    """Make a small walk and wait for its end."""

    def make(*prompts: str, **options: Any) -> dict[str, Any]:
        with Client(system.url) as client:
            submitted = client.submit(list(prompts), **{"frames": 2, "steps": 1, **options})
            *_, walk = client.watch(submitted)
        return dict(walk)

    return make
