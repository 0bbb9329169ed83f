"""The website in Chromium, before the whole real system."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, Response, expect

from momalisa.client import Client
from momalisa.local import System

DONE = 120_000
"""Milliseconds that a walk may take on a slow machine."""


@pytest.fixture
def website(system: System, page: Page) -> Iterator[Page]:
    """The website, which must not complain in the console."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(system.url)
    yield page
    assert complaints == []


def submit(page: Page, start: str, end: str, frames: int) -> None:
    page.locator("#from").fill(start)
    page.locator("#to").fill(end)
    page.locator("#frames").fill(str(frames))
    page.get_by_role("button", name="Make the walk").click()
    page.wait_for_url(re.compile(r"/walks/[0-9a-f-]{36}$"))


def test_a_visitor_makes_watches_and_saves_a_walk(website: Page, tmp_path: Path) -> None:
    frames_seen_early: list[int] = []

    def look(response: Response) -> None:
        if "/v1/walks/" in response.url and response.status == 200:
            walk = response.json()
            if not walk["done"]:
                frames_seen_early.append(walk["progress"]["frames_done"])

    website.on("response", look)
    submit(website, "a giraffe", "a battleship", 24)
    player = website.locator("frame-player")
    expect(player).to_have_attribute("data-frames", re.compile("^[1-9]"), timeout=DONE)
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)
    assert any(0 < frames < 24 for frames in frames_seen_early)  # they came before the walk was done

    expect(player).to_have_attribute("data-frames", "24", timeout=DONE)
    shown = player.get_attribute("data-index")
    expect(player).not_to_have_attribute("data-index", shown or "")  # it plays
    player.get_by_role("button", name="Pause").click()
    player.get_by_role("slider").press("Home")
    expect(player).to_have_attribute("data-index", "0")
    player.get_by_role("slider").press("ArrowRight")
    expect(player).to_have_attribute("data-index", "1")

    for kind, decoder in (("GIF", "GIF"), ("MP4", None)):
        with website.expect_download() as download:
            website.get_by_role("link", name=re.compile(kind)).click()
        assert download.value.suggested_filename == f"a-giraffe-to-a-battleship.{kind.lower()}"
        path = tmp_path / kind
        download.value.save_as(path)
        assert path.stat().st_size > 1000
        if decoder:
            with Image.open(path) as gif:
                assert (gif.format, getattr(gif, "n_frames", 1)) == (decoder, 24)


def test_a_finished_walk_hangs_in_the_gallery(website: Page, system: System) -> None:
    with Client(system.url) as client:
        walk = client.submit(["a fox", "a boat"], frames=2, steps=1)
        *_, walk = client.watch(walk)
    website.reload()
    item = website.locator(".gallery-item", has_text="a fox").first
    expect(item).to_be_visible()
    item.get_by_role("link").click()
    expect(website).to_have_url(walk["urls"]["web"])
    expect(website.get_by_role("link", name=re.compile("MP4"))).to_be_visible()


def test_a_refusal_stands_beside_the_field_and_keeps_the_words(website: Page) -> None:
    website.locator("#from").fill("a \u202ecat")
    website.locator("#to").fill("a castle")
    website.get_by_role("button", name="Make the walk").click()
    expect(website.locator("#from-error")).to_contain_text("U+202E at character 3")
    expect(website.locator("#to")).to_have_value("a castle")


def test_an_unknown_walk_shows_a_way_home(website: Page, system: System) -> None:
    website.goto(f"{system.url}/walks/00000000-0000-4000-8000-000000000000")
    expect(website.get_by_text(re.compile("no such walk", re.IGNORECASE)).first).to_be_visible()
    expect(website.locator("a[href='/']").first).to_be_visible()


def test_one_switch_stills_all_motion_and_is_remembered(website: Page, system: System) -> None:
    with Client(system.url) as client:
        *_, walk = client.watch(client.submit(["a fox", "a boat"], frames=4, steps=1))
    website.goto(walk["urls"]["web"])
    player = website.locator("frame-player")
    expect(player).to_have_attribute("data-frames", "4")
    website.locator("#motion").click()
    expect(player.get_by_role("button", name="Play")).to_be_visible()
    website.reload()
    expect(player).to_have_attribute("data-frames", "4")
    expect(player.get_by_role("button", name="Play")).to_be_visible()


@pytest.mark.parametrize("width", [320, 390, 1280, 1920])
def test_nothing_is_wider_than_the_screen(website: Page, width: int) -> None:
    website.set_viewport_size({"width": width, "height": 900})
    website.locator("#from").fill("supercalifragilistic" * 15)
    overflow = website.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0


def test_the_page_answers_within_a_second(website: Page, system: System) -> None:
    """No request of the page is held open; the answers come from the database, not from a render."""
    times: list[float] = []
    website.on(
        "requestfinished",
        lambda request: times.append(request.timing["responseEnd"]) if "/v1/" in request.url else None,
    )
    submit(website, "a tree", "a house", 4)
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)
    assert times
    assert max(times) < 1000
