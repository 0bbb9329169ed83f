"""Takes the screenshots in `docs/screens/`: `python -m tests.e2e.screens`."""

import re
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import func, update

from momalisa import settings
from momalisa.client import Client
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT
from tests.chromium import launch_options

FOLDER = ROOT / "docs" / "screens"

Theme = Literal["light", "dark"]
Prepare = Callable[[Page], object]

SIZES = {390: 844, 820: 1180, 1280: 800, 1920: 1080}
"""Widths and heights of a phone, a tablet, a laptop and a desktop."""

ON_ITS_SIDE = (844, 390)
"""The phone in landscape."""

EMBEDDED = (480, 544)
"""The usual size of a walk that is embedded on another page."""

THEMES: tuple[Theme, ...] = ("light", "dark")

FLATTEN = """() => {
    for (const image of document.images) image.loading = "eager";
    for (const element of document.querySelectorAll("*")) {
        const { display, position, contentVisibility } = getComputedStyle(element);
        if (display === "none") element.style.display = "none";
        if (contentVisibility === "auto") element.style.contentVisibility = "visible";
        if (position === "sticky") Object.assign(element.style, { position: "relative", inset: "auto" });
    }
}"""
"""Prepares a page to be captured whole: nothing floats over it, what is below the screen is drawn, too, and what a
touch screen hides stays hidden, since the capture takes it for another screen."""

TIMEOUT = 120_000
"""Milliseconds to load a page on a busy machine."""

MAX_HEIGHT = 3500
"""Pixels after which a screenshot is cut: the reference of the API is very long."""

PAIRS = (
    ("an owl", "a clock"), ("a fox", "a teapot"), ("a rose", "a butterfly"), ("a castle", "a ship"),
    ("a lighthouse", "a candle"), ("a peacock", "a fan"), ("a mushroom", "an umbrella"), ("a horse", "a piano"),
    ("a strawberry", "a ladybug"), ("a cat", "a violin"), ("a whale", "a cloud"), ("a bear", "a balloon"),
)  # fmt: skip

TEN = (
    "a giraffe",
    "a fox",
    "an owl",
    "a rose",
    "a castle",
    "a violin",
    "a whale",
    "a clock",
    "a cat",
    "a battleship",
)
LONG = (
    "a very long procession of travelling musicians with violins, drums and paper lanterns that crosses a stone "
    "bridge at dusk while it begins to snow",
    "the same bridge a hundred years later, overgrown, without anybody on it, supercalifragilisticexpialidocious",
)


class Photographer:
    """Takes screenshots of a system with a browser."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url

    def page(self, name: str, path: str, prepare: Prepare = lambda _: None) -> None:
        """Capture a page at every width, light and dark."""
        for screen in SIZES.items():
            self._take(name, path, screen, THEMES, prepare)

    def state(self, name: str, path: str, prepare: Prepare = lambda _: None) -> None:
        """Capture a state that has no page of its own: on a laptop in light mode, on a phone in dark mode."""
        self._take(name, path, (1280, SIZES[1280]), ("light",), prepare)
        self._take(name, path, (390, SIZES[390]), ("dark",), prepare)

    def first_screen(
        self,
        name: str,
        path: str,
        screen: tuple[int, int],
        prepare: Prepare = lambda _: None,
        themes: Iterable[Theme] = THEMES,
    ) -> None:
        """Capture what a screen shows without scrolling."""
        self._take(name, path, screen, themes, prepare, whole=False)

    def _take(
        self,
        name: str,
        path: str,
        screen: tuple[int, int],
        themes: Iterable[Theme],
        prepare: Prepare,
        *,
        whole: bool = True,
    ) -> None:
        width, height = screen
        touch = width < 1000  # then scroll bars take no space
        page = self._browser.new_page(
            viewport={"width": width, "height": height}, reduced_motion="reduce", is_mobile=touch, has_touch=touch
        )
        page.set_default_timeout(TIMEOUT)
        page.goto(self._url + path)
        prepare(page)
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        whole = whole and page.evaluate("document.fullscreenElement === null")  # else its page is below
        if whole:
            page.evaluate(FLATTEN)
        if "running" not in name:
            page.wait_for_load_state("networkidle")
        page.evaluate("document.fonts.ready")
        for theme in themes:
            page.emulate_media(color_scheme=theme)
            with Image.open(BytesIO(page.screenshot(full_page=whole, animations="disabled"))) as image:
                shown = image.crop((0, 0, image.width, min(image.height, MAX_HEIGHT)))
                shown.convert("RGB").save(FOLDER / f"{name}-{width}-{theme}.webp", quality=70, method=6)
        page.close()


def main() -> None:
    """Make the walks, and take the screenshots."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="momalisa-screens-") as folder,
        stack.started(LocalStack(Path(folder), port=free_port())) as system,
        Client(system.url) as client,
        sync_playwright() as playwright,
    ):
        expect.set_options(timeout=TIMEOUT)
        browser = playwright.chromium.launch(**launch_options())
        shoot(Photographer(browser, system.url), client, system)
        browser.close()


def _show(page: Page, *, frames: int, at: float) -> None:
    """Scrub a walk to a position, once all of its frames are loaded."""
    expect(page.locator("frame-player")).to_have_attribute("data-frames", str(frames))
    scrub = f"(scrubber) => {{ scrubber.value = {at} * scrubber.max; scrubber.dispatchEvent(new Event('input')); }}"
    page.get_by_role("slider").evaluate(scrub)


def _fill_the_screen(page: Page, *, frames: int) -> None:
    _show(page, frames=frames, at=0.42)
    page.get_by_role("button", name="Full screen").click()
    expect(page.get_by_role("button", name="Leave full screen")).to_be_visible()


def _hang(page: Page) -> None:
    """Wait until the first walk of an exhibition can be seen."""
    film = page.locator(".here video")
    film.evaluate("(film) => film.readyState >= 2 || new Promise((go) => film.addEventListener('loadeddata', go))")


def _choose_two(page: Page) -> None:
    for piece in page.locator(".piece label").all()[:2]:
        piece.click()


def _show_figure(page: Page) -> None:
    page.wait_for_load_state("networkidle")  # the pictures are loaded
    figure = "(scrubber) => { scrubber.value = 420; scrubber.dispatchEvent(new Event('input')); }"
    page.get_by_label("Place on the line").evaluate(figure)


def _refuse(page: Page) -> None:
    page.locator("#stop-0").fill(200 * "a cat ")
    page.locator("#frames").fill("1")
    page.get_by_role("button", name="Make the walk").click()


def _name_ten(page: Page) -> None:
    for _ in TEN[2:]:
        page.get_by_role("button", name="Add a stop").click()
    for place, stop in enumerate(TEN):
        page.locator(f"#stop-{place}").fill(stop)


def _wait_for_a_picture(page: Page) -> None:
    expect(page.locator("frame-player")).to_have_attribute("data-frames", re.compile("^[1-9]"), timeout=60_000)


def _let_expire(system: LocalStack, path: str) -> None:
    """Make a walk exceed its retention, and wait until it has expired."""
    settings.override(**system.variables)
    with transaction() as session:
        of_age = func.now() - timedelta(days=settings.settings().retention_days + 1)
        session.execute(update(Walk).where(Walk.id == UUID(Path(path).name)).values(finished_at=of_age))
    while httpx.get(system.url + path, trust_env=False).status_code != HTTPStatus.GONE:
        time.sleep(0.2)


def shoot(photographer: Photographer, client: Client, system: LocalStack) -> None:
    """Take all screenshots: the empty gallery first, destructive states last."""
    photographer.state("bare-gallery", "/gallery")

    def make(*prompts: str, frames: int = 3, **options: Any) -> str:
        *_, walk = client.watch(
            client.submit(list(prompts), **{"frames": frames, "seed": 11, "steps": 8, **options})
        )
        return f"/walks/{walk['id']}"

    expired = make("a comet", "a kettle", frames=2, steps=1)
    failed = make("a tree", "a house", frames=240, steps=100, deadline_seconds=1)
    special = {
        "long-words": make(*LONG),
        "right-to-left": make("زرافة تمشي في الصحراء", "ספינת קרב"),
        "chinese-and-japanese": make("一只长颈鹿站在草原上", "海を渡る戦艦"),
        "ten-stops-walk": make(*TEN, frames=20),
    }
    for pair in PAIRS:
        make(*pair)
    walk = make("a giraffe", "a battleship", frames=48, steps=8)

    photographer.page("make", "/")
    photographer.page("walk", walk, partial(_show, frames=48, at=0.42))
    photographer.page("gallery", "/gallery")
    photographer.page("about", "/about", _show_figure)
    photographer.first_screen("make", "/", ON_ITS_SIDE)
    photographer.first_screen("walk", walk, ON_ITS_SIDE, partial(_show, frames=48, at=0.42))
    photographer.first_screen("gallery", "/gallery", ON_ITS_SIDE)
    photographer.first_screen("embed", f"{walk}/embed", EMBEDDED)
    for name, path, prepare in (
        ("full-screen", walk, partial(_fill_the_screen, frames=48)),
        ("exhibition", "/exhibition", _hang),
    ):
        photographer.state(name, path, prepare)
        photographer.first_screen(name, path, ON_ITS_SIDE, prepare, ("dark",))  # these are always dark
    photographer.state("remix", f"/?from={Path(walk).name}")
    photographer.state("choosing", "/gallery?choose=true", _choose_two)
    photographer.state("docs", "/docs")
    photographer.state("settings", "/", lambda page: page.get_by_text("Settings", exact=True).click())
    photographer.state("refused", "/", _refuse)
    photographer.state("ten-stops", "/", _name_ten)
    for name, path in special.items():
        photographer.state(name, path, partial(_show, frames=20 if name == "ten-stops-walk" else 3, at=0.5))
    photographer.state("failed", failed)
    photographer.state("no-such-walk", "/walks/none")
    photographer.state("nothing-found", "/gallery?q=narwhal")
    _let_expire(system, expired)
    photographer.state("expired", expired)
    running = client.submit(["a castle", "a comet"], frames=96, seed=5)
    photographer.state("running", f"/walks/{running['id']}", _wait_for_a_picture)
    client.cancel(running["id"])


if __name__ == "__main__":
    main()
