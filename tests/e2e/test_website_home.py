"""The home page: an example in the frame, words of one's own, another pair, the settings."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import func, update

from momalisa import description
from momalisa.db.models import Chunk, Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkStatus
from momalisa.queue import catalog
from momalisa.walks import service
from tests.claims import render_a_chunk
from tests.e2e.conftest import expect_stops
from tests.finished_walks import OWNER

MEASURE = """
globalThis.shift = 0;
new PerformanceObserver((list) => { for (const each of list.getEntries()) shift += each.value; })
    .observe({ type: "layout-shift", buffered: true });
"""

BYTES = """() => ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
    .filter(({ name }) => !name.endsWith(".woff2")).reduce((sum, { transferSize }) => sum + transferSize, 0)"""

PLAYS = "(video) => !video.paused && video.currentTime > 0"


@pytest.fixture
def phone(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page on a phone of 390 × 664 pixels."""
    opened = []

    def open_page(url: str, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": 390, "height": 664}, has_touch=True, is_mobile=True, **options)
        opened.append(page)
        page.add_init_script(MEASURE)
        page.goto(url)
        return page

    yield open_page
    for page in opened:
        page.close()


def last_prompts() -> list[str]:
    """Return the prompts of the walk that was made last."""
    with transaction() as session:
        return list(session.query(Walk).order_by(Walk.created_at.desc()).first().spec.prompts)  # type: ignore[union-attr]


def test_a_phone_shows_a_finished_walk_and_the_form_on_one_screen(museum: str, phone: Callable[..., Page]) -> None:
    page = phone(museum)
    video = page.locator("video")
    page.wait_for_function(PLAYS, arg=video.element_handle())
    assert page.evaluate("shift") < 0.02
    assert page.evaluate(BYTES) < 150_000
    stage = page.locator(".stage").bounding_box()
    assert stage
    assert stage["height"] <= 0.38 * 664
    for selector in ("#stop-0", "#stop-1", ".submit .button"):
        expect(page.locator(selector)).to_be_in_viewport(ratio=1)
    masthead = page.locator(".masthead").bounding_box()
    assert masthead
    assert masthead["height"] < 48  # one row
    picture = video.bounding_box()
    assert picture
    assert picture["height"] > 0.75 * stage["height"]
    page.set_viewport_size({"width": 664, "height": 390})  # the phone on its side
    for selector in ("video", "#stop-0", "#stop-1"):
        expect(page.locator(selector)).to_be_in_viewport(ratio=1)
    page.set_viewport_size({"width": 390, "height": 664})

    page.locator("#stop-0").tap()
    page.keyboard.type("a cat")
    expect(page.locator("#stop-0")).to_have_value("a cat")
    expect(page.locator("#frame")).to_have_attribute("data-shows", "plan")
    expect(page.get_by_role("region", name="The plan of your walk")).to_be_visible()
    expect(page.locator(".plan-words")).to_contain_text("a cat")
    assert video.evaluate("(video) => video.paused")
    end = page.locator("#stop-1").get_attribute("placeholder")
    page.get_by_role("button", name="Make the walk").tap()
    page.wait_for_url("**/walks/*")
    assert last_prompts() == ["a cat", end]


def test_without_motion_the_example_is_a_still(museum: str, phone: Callable[..., Page]) -> None:
    page = phone(museum, reduced_motion="reduce")
    expect(page.locator("stop-list")).to_have_attribute("data-ready", "")
    expect(page.locator(".example-label")).to_be_visible()
    assert page.locator("video").evaluate("(video) => video.paused && video.poster.endsWith('.webp')")
    page.wait_for_load_state("networkidle")
    assert not page.evaluate("performance.getEntriesByType('resource').some(({ name }) => name.endsWith('.mp4'))")
    page.get_by_role("button", name="Still").tap()
    page.wait_for_function(PLAYS, arg=page.locator("video").element_handle())


def test_another_pair_shows_its_walk_and_gives_the_words_back(museum: str, quiet: Page) -> None:
    quiet.goto(museum)
    first = quiet.locator("#stop-0").get_attribute("placeholder")
    quiet.get_by_role("button", name="Add a stop").click()
    for place, stop in enumerate(("my own", "idea", "at last")):
        quiet.locator(f"#stop-{place}").fill(stop)
    quiet.get_by_role("button", name="Another pair").click()
    expect_stops(quiet, "", "")
    pair = [quiet.locator(f"#stop-{place}").get_attribute("placeholder") or "" for place in range(2)]
    assert pair[0] != first
    expect(quiet.locator(".example-label i")).to_have_text(" → ".join(pair))
    quiet.wait_for_function(PLAYS, arg=quiet.locator("video").element_handle())
    quiet.reload()
    expect(quiet.locator("#stop-0")).to_have_attribute("placeholder", pair[0])
    quiet.locator("#stop-1").fill("newer")
    undo = quiet.get_by_role("button", name="Back to your words")
    undo.click()
    expect_stops(quiet, "my own", "idea", "at last")
    undo.click()
    expect_stops(quiet, "", "newer")  # these are not lost either
    quiet.locator("#stop-1").fill("")
    quiet.get_by_role("button", name="Swap").click()
    expect(quiet.locator(".example-label i")).to_have_text(" → ".join(reversed(pair)))
    shown = [quiet.locator(f"#stop-{place}").get_attribute("placeholder") for place in range(2)]
    quiet.get_by_role("button", name="Make the walk").click()
    quiet.wait_for_url("**/walks/*")
    assert last_prompts() == shown


def test_changed_settings_are_counted_and_reset(museum: str, quiet: Page) -> None:
    quiet.goto(museum)
    summary, reset = quiet.locator("summary"), quiet.get_by_role("button", name="Reset the settings")
    expect(reset).to_be_hidden()
    summary.click()
    for group, field in (("Picture", "Seed"), ("Motion", "Loop"), ("Craft", "Guidance")):
        expect(quiet.get_by_role("group", name=group).get_by_label(field, exact=True)).to_be_visible()
    expect(quiet.locator("#size")).to_be_hidden()  # this model paints one thing at 128 × 128 pixels only
    quiet.locator("#seed").fill("7")
    quiet.locator("#loop").select_option("pingpong")
    quiet.get_by_label("Hang it in the gallery").uncheck()
    quiet.reload()
    expect(summary).to_have_text("Settings · 3 changed")
    reset.click()
    expect(summary).to_have_text("Settings")
    expect(summary).to_be_focused()
    quiet.reload()
    expect(summary).to_have_text("Settings")
    expect(quiet.locator("#seed")).to_have_value("")
    expect(quiet.locator("#loop")).to_have_value("none")


def test_the_form_says_what_its_model_knows_and_suggests_it(museum: str, quiet: Page) -> None:
    quiet.goto(museum)
    subjects = quiet.request.get(f"{museum}/v1/models").json()["models"][0]["subjects"]
    expect(quiet.locator("#model-hint")).to_contain_text(f"It knows {len(subjects):,} things by name.")
    suggested = quiet.locator("#subjects option")
    expect(suggested).to_have_count(0)  # the first page does without them
    quiet.locator("#stop-0").focus()
    expect(suggested).to_have_count(len(subjects))
    assert "giraffe" in subjects
    expect(quiet.locator("#stop-0")).to_have_attribute("list", "subjects")


def test_a_stop_that_is_not_named_yet_leaves_the_estimate_as_it_is(
    museum: str, quiet: Page, spec: Callable[..., WalkSpec]
) -> None:
    with transaction() as session:
        catalog.report(session, description.of_settings().model_copy(update={"dense": True}))
        service.create(session, spec(frames=8), public=False, owner=OWNER)
    render_a_chunk()
    times = {"claimed_at": func.now() - timedelta(seconds=20), "finished_at": func.now()}
    with transaction() as session:
        session.execute(update(Chunk).where(Chunk.status == ChunkStatus.DONE).values(times))
    quiet.goto(museum)
    quiet.locator("#frames").fill("96")
    estimate = quiet.locator("#estimate")
    expect(estimate).to_contain_text("once a painter is free")
    dense = estimate.inner_text()
    quiet.get_by_role("button", name="Add a stop").click()
    expect(estimate).to_have_text(dense)
    quiet.locator("#stop-1").fill("a rose")  # legs of 48 frames, each of which is denoised
    expect(estimate).not_to_have_text(dense)
