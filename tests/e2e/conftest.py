"""The website in Chromium, whose console must stay empty."""

import re
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from momalisa.client import Client
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from tests.conftest import until

DONE = 120_000
"""Timeout of a walk on a slow machine, in milliseconds."""

ADDRESS = re.compile(r"/walks/[0-9a-f-]{36}$")
"""Of the page of a walk."""

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
"""The rules of axe that pages keep to."""


def name_stops(page: Page, *stops: str) -> None:
    """Fill the stops of the form."""
    for place, stop in enumerate(stops):
        page.locator(f"#stop-{place}").fill(stop)


def submit(page: Page, start: str, end: str, frames: int) -> None:
    """Make a walk with the form, and wait for its page."""
    name_stops(page, start, end)
    page.locator("#frames").fill(str(frames))
    page.get_by_role("button", name="Make the walk").click()
    page.wait_for_url(ADDRESS)


def expect_stops(page: Page, *words: str) -> None:
    """Expect these words in the fields of the form."""
    expect(page.locator("stop-list input")).to_have_count(len(words))
    for place, word in enumerate(words):
        expect(page.locator(f"#stop-{place}")).to_have_value(word)


def expect_axe_finds_nothing(page: Page) -> None:
    """Expect that axe finds no violation of its rules, by day and by night."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found = Axe().run(page, options=RULES)
        assert found.violations_count == 0, found.generate_report()


def pixel_at(page: Page, x: float, y: float) -> tuple[int, ...]:
    """Return the red, green and blue of a pixel of the page."""
    picture = page.screenshot(clip={"x": round(x), "y": round(y), "width": 1, "height": 1})
    with Image.open(BytesIO(picture)) as image:
        return tuple(image.convert("RGB").tobytes())


@pytest.fixture
def quiet(page: Page) -> Iterator[Page]:
    """A page whose console must stay empty."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Ignore what the browser logs about responses that a test makes fail.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []


@pytest.fixture
def website(system: LocalStack, quiet: Page) -> Page:
    """The website with the whole system behind it."""
    quiet.goto(system.url)
    return quiet


@pytest.fixture
def museum(services: LocalStack) -> Iterator[str]:
    """The URL of the website with an empty database and no workers: its walks come from the test."""
    from api.app import app  # noqa: PLC0415

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, name="museum")
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started, "the API does not start"
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def scriptless(browser: Browser) -> Iterator[Page]:
    """A page without scripts."""
    context = browser.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    """A page on a small touch screen."""
    context = browser.new_context(
        has_touch=True, is_mobile=True, viewport={"width": 390, "height": 664}, device_scale_factor=2
    )
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def finished(system: LocalStack) -> Callable[..., dict[str, Any]]:
    """Create a small walk and wait for its end."""

    def make(*prompts: str, **options: Any) -> dict[str, Any]:
        with Client(system.url) as client:
            submitted = client.submit(list(prompts), **{"frames": 2, "steps": 1, **options})
            *_, walk = client.watch(submitted)
        return dict(walk)

    return make
