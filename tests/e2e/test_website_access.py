"""Accessibility of the website: keyboard, assistive technology, small screens, slow connections."""

import gzip
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Response, expect

from momalisa.local.stack import LocalStack
from tests.e2e.conftest import DONE, expect_axe_finds_nothing

Finished = Callable[..., dict[str, Any]]

PICTURES = {"font", "image", "media"}


@pytest.fixture(scope="module")
def walk(finished: Finished) -> dict[str, Any]:
    """A finished walk to look at."""
    return finished("a fox", "a boat")


@pytest.fixture(params=["make", "settings", "refused", "walk", "gallery", "yours", "about", "docs", "problem"])
def sight(request: pytest.FixtureRequest, website: Page, system: LocalStack, walk: dict[str, Any]) -> Page:
    """Each page of the website."""
    name: str = request.param
    path = {"walk": f"/walks/{walk['id']}", "gallery": "/gallery", "yours": "/gallery?mine=true"}
    path |= {"about": "/about", "docs": "/docs", "problem": "/walks/none"}
    website.emulate_media(reduced_motion="reduce")
    website.goto(system.url + path.get(name, "/"))
    if name == "settings":
        website.get_by_role("button", name="Add a stop").click()
        website.locator("summary").click()
    if name == "refused":
        website.locator("#stop-0").fill("")
        website.locator("#frames").fill("1")
        website.get_by_role("button", name="Make the walk").click()
    if name == "walk":
        expect(website.locator("frame-player")).to_have_attribute("data-frames", "2")
    return website


def test_axe_finds_nothing(sight: Page) -> None:
    expect_axe_finds_nothing(sight)


@pytest.mark.parametrize("width", [320, 390, 1280, 1920])
def test_no_element_is_wider_than_the_screen(sight: Page, width: int) -> None:
    sight.set_viewport_size({"width": width, "height": 900})
    for field in sight.locator("stop-list input").all():
        field.fill("supercalifragilistic" * 15)
    assert sight.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_long_words_stay_inside_their_label(website: Page, finished: Finished) -> None:
    walk = finished("supercalifragilistic" * 15, "a boat")
    for width in (320, 1280):
        website.set_viewport_size({"width": width, "height": 900})
        website.goto(walk["urls"]["web"])
        expect(website.locator("frame-player")).to_have_attribute("data-frames", "2")
        assert website.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_sliders_keep_their_line_and_dot_where_colours_are_forced(website: Page, system: LocalStack) -> None:
    website.emulate_media(forced_colors="active", color_scheme="light", reduced_motion="reduce")
    for path, name in (("/", "Frames (slider)"), ("/about", "Points")):
        website.goto(system.url + path)
        with Image.open(BytesIO(website.get_by_role("slider", name=name).screenshot())) as picture:
            black = (np.asarray(picture.convert("L")) < 64).sum(axis=0)  # pixels of each column
        assert 10 <= black.max() <= 14, path
        assert black[-16] == 1, path


def press_until_focused(page: Page, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement?.matches(selector)", selector):
            shown = page.evaluate(
                "((style) => style.outlineStyle + style.boxShadow)(getComputedStyle(document.activeElement))"
            )
            assert shown != "nonenone", f"the focus on {selector} cannot be seen"
            return
    raise AssertionError(f"{selector} is not reached with Tab")


def test_from_nothing_to_a_download_by_keyboard_alone(website: Page) -> None:
    keys = website.keyboard
    press_until_focused(website, "#stop-0")
    keys.press("Control+a")
    keys.type("a tree")
    press_until_focused(website, "#stop-1")
    keys.press("Control+a")
    keys.type("a house")
    press_until_focused(website, "#frames")
    keys.press("Control+a")
    keys.type("3")
    press_until_focused(website, "[type=submit]")
    keys.press("Enter")
    website.wait_for_url(re.compile("/walks/"))
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)
    expect(website.locator("frame-player")).to_have_attribute("data-frames", "3")
    press_until_focused(website, ".play")
    keys.press("Enter")
    expect(website.get_by_role("button", name="Play")).to_be_focused()
    press_until_focused(website, ".scrubber")
    keys.press("End")
    expect(website.locator("frame-player")).to_have_attribute("data-rank", "2")
    press_until_focused(website, "a[href$='.gif']")
    with website.expect_download() as download:
        keys.press("Enter")
    assert re.fullmatch(r"a-tree-to-a-house-[0-9a-f]{4}\.gif", download.value.suggested_filename)


@pytest.mark.parametrize("path", ["/", "/gallery", "/about", "/docs", "/walks/"])
def test_a_page_is_light(website: Page, system: LocalStack, walk: dict[str, Any], path: str) -> None:
    """At most 60 kB compressed and 25 requests, without fonts, pictures and the data of the walk."""
    bodies: dict[str, int] = {}
    plain: list[str] = []

    def weigh(response: Response) -> None:
        if response.request.resource_type in PICTURES or "/v1/" in response.url:
            return
        bodies[response.url] = len(gzip.compress(response.body(), 6))
        if "/static/" in response.url and bodies[response.url] > 500 and "content-encoding" not in response.headers:
            plain.append(response.url)

    website.on("response", weigh)
    website.goto(system.url + (path if path != "/walks/" else f"/walks/{walk['id']}"))
    website.wait_for_load_state("networkidle")
    assert sum(bodies.values()) < 60_000, bodies
    assert len(bodies) <= 25, sorted(bodies)
    assert plain == []


def test_nothing_is_loaded_from_anywhere_else(website: Page, system: LocalStack, walk: dict[str, Any]) -> None:
    bucket = walk["artifacts"]["gif"]["url"].split("/momalisa/")[0]
    asked: list[str] = []
    website.on("request", lambda request: asked.append(request.url))
    for path in ("/", "/gallery", "/about", "/docs", f"/walks/{walk['id']}"):
        website.goto(system.url + path)
        website.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith((system.url, bucket, "blob:"))] == []


def test_no_response_is_delayed(website: Page, system: LocalStack) -> None:
    """Responses come from the database, not from rendering: none takes as long as a walk."""
    held: list[str] = []
    website.on(
        "request", lambda request: held.append(request.url) if "wait" in request.headers.get("prefer", "") else None
    )
    website.locator("#frames").fill("4")
    website.get_by_role("button", name="Make the walk").click()
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)
    assert held == []
