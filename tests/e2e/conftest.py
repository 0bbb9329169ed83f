"""The website in Chromium, which must not complain."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page

from momalisa.client import Client
from momalisa.local import System

DONE = 120_000
"""Milliseconds that a walk may take on a slow machine."""


@pytest.fixture
def website(system: System, page: Page) -> Iterator[Page]:
    """The website, whose scripts must leave the console empty."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # What the browser says of an answer that a test makes fail is no complaint of ours.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(system.url)
    yield page
    assert complaints == []


@pytest.fixture
def finished(system: System) -> Callable[..., dict[str, Any]]:
    """Make a small walk and wait for its end."""

    def make(*prompts: str, **options: Any) -> dict[str, Any]:
        with Client(system.url) as client:
            submitted = client.submit(list(prompts), **{"frames": 2, "steps": 1, **options})
            *_, walk = client.watch(submitted)
        return dict(walk)

    return make
