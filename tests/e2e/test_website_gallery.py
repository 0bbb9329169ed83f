"""The gallery and the about page."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.local.stack import LocalStack
from momalisa.walks import queries
from tests.e2e.conftest import expect_stops, pixel_at
from tests.finished_walks import insert_finished_walks, make_finished_walk

Finished = Callable[..., dict[str, Any]]


@pytest.fixture
def full_gallery(museum: str, spec: Callable[..., WalkSpec]) -> str:
    """The URL of a gallery with more walks than one page shows."""
    insert_finished_walks(spec(prompts=("a quilt", "a lamp")), 25, posters=1)  # and the one whose video they share
    return f"{museum}/gallery?q=quilt"


def test_a_finished_walk_hangs_in_the_gallery_and_can_be_remixed_there(
    website: Page, system: LocalStack, finished: Finished
) -> None:
    walk = finished("a fox", "a boat")
    website.goto(f"{system.url}/gallery")
    piece = website.locator(".piece").first
    expect(piece).to_contain_text("a fox")
    expect(piece.get_by_role("link", name="Remix a fox to a boat")).to_have_attribute(
        "href", f"/?from={walk['id']}"
    )
    piece.get_by_role("link").first.click()
    expect(website).to_have_url(walk["urls"]["web"])


def test_load_more_is_a_link_that_adds_walks_below(quiet: Page, full_gallery: str) -> None:
    quiet.goto(full_gallery)
    expect(quiet.locator(".piece")).to_have_count(24)
    more = quiet.get_by_role("link", name="Load more")
    assert "cursor=" in (more.get_attribute("href") or "")
    more.click()
    expect(quiet.locator(".piece")).to_have_count(26)
    expect(quiet.locator(".piece").nth(24).get_by_role("link").first).to_be_focused()
    expect(more).to_have_count(0)
    titles = quiet.locator(".caption").all_text_contents()
    assert len(set(titles)) == 26


def test_load_more_works_without_scripts(scriptless: Page, full_gallery: str) -> None:
    scriptless.goto(full_gallery)
    scriptless.get_by_role("link", name="Load more").click()
    expect(scriptless.locator(".piece")).to_have_count(2)
    scriptless.get_by_role("link", name="Back to the newest").click()
    expect(scriptless.locator(".piece")).to_have_count(24)


def test_the_gallery_can_be_searched(website: Page, system: LocalStack, finished: Finished) -> None:
    finished("a Narwhal", "a boat")
    website.locator("#stop-0").fill("an idea")
    website.locator("#frames").fill("7")
    website.goto(f"{system.url}/gallery")
    website.get_by_label("Only walks with this word").fill("narwhal")
    website.keyboard.press("Enter")
    expect(website.locator(".piece")).to_have_count(1)
    website.get_by_label("Only walks with this word").fill("100%_\\")
    website.get_by_role("button", name="Find").click()
    expect(website.get_by_text("Nothing here shows “100%_\\”.")).to_be_visible()
    website.get_by_role("link", name="Make the first walk there").click()
    expect_stops(website, "", "100%_\\")
    expect(website.get_by_role("button", name="Back to your words")).to_be_visible()  # the script is there
    website.locator("#stop-0").fill("a sum")
    website.reload()
    expect_stops(website, "a sum", "100%_\\")
    expect(website.locator("#frames")).to_have_value("7")
    website.get_by_role("button", name="Back to your words").click()  # those of before
    expect_stops(website, "an idea", "")


def test_a_still_plays_on_hover_and_focus_unless_motion_is_off(
    website: Page, system: LocalStack, finished: Finished
) -> None:
    finished("a fox", "a boat", frames=4)
    website.goto(f"{system.url}/gallery")
    piece = website.locator(".piece").first
    piece.hover()
    expect(piece.locator("video.running")).to_have_count(1)
    website.mouse.move(0, 0)
    expect(website.locator("video")).to_have_count(0)
    piece.locator("a").first.evaluate("""(link) => {
        for (const kind of ["over", "out", "over"]) {
            link.dispatchEvent(new PointerEvent(`pointer${kind}`, { bubbles: true, pointerType: "mouse" }));
        }
    }""")
    expect(piece.locator("video.running")).to_have_count(1)  # the first film, which did not play, stops no other
    piece.hover()
    website.mouse.move(0, 0)
    expect(website.locator("video")).to_have_count(0)
    website.locator("#wall").focus()
    website.keyboard.press("Tab")
    expect(piece.locator("video.running")).to_have_count(1)
    website.get_by_role("button", name="Still").click()
    expect(website.locator("video")).to_have_count(0)
    piece.hover()
    expect(website.locator("video")).to_have_count(0)


def test_on_a_phone_triptychs_play_in_view_and_a_tap_opens_one(
    museum: str, phone: Page, spec: Callable[..., WalkSpec]
) -> None:
    for name in ("a wide door", "a tall door", *(f"door {number}" for number in range(6))):
        size = {"a wide door": (192, 128), "a tall door": (128, 192)}.get(name, (128, 128))
        walk_id = make_finished_walk(spec(prompts=(name, "a room"), width=size[0], height=size[1]))
    pictures_of_walks = re.compile("/frames/|poster")
    phone.route(pictures_of_walks, lambda _: None)  # they wait until this is undone
    phone.goto(f"{museum}/gallery", wait_until="domcontentloaded")
    pieces = phone.locator(".piece")
    last, first = pieces.last, pieces.first
    places = "() => [...document.querySelectorAll('.hanging')].slice(0, 3).map((frame) => frame.clientHeight)"
    before = phone.evaluate(places)
    phone.unroute(pictures_of_walks)
    phone.wait_for_function("() => document.querySelector('.piece').querySelectorAll('img')[2].complete")
    assert phone.evaluate(places) == before  # nothing shifts
    assert min(before) > 90  # pixels
    expect(first.locator("img")).to_have_count(3)
    with transaction() as session:
        walk = queries.get(session, walk_id, viewer=None)
    pictures = [image.get_attribute("src") or "" for image in first.locator("img").all()]
    frames = [frame.object or "" for frame in walk.frames]
    assert [url.split("/")[-1] for url in (pictures[0], pictures[2])] == [
        name.split("/")[-1] for name in (frames[0], frames[-1])
    ]
    assert "poster" in pictures[1]

    expect(last.locator("video")).to_have_count(0)
    last.locator(".hanging").evaluate("(it) => it.scrollIntoView({ block: 'center' })")
    expect(last.locator("video.running")).to_have_count(1)
    expect(first.locator("video")).to_have_count(0)
    film, still = last.locator("video").bounding_box(), last.locator("img").nth(1).bounding_box()
    assert film == pytest.approx(still, abs=1)  # between the two ends, in the place of the middle
    first.locator(".hanging").tap()
    expect(phone).to_have_url(f"{museum}/walks/{walk_id}")


def test_the_focus_on_a_piece_is_not_clipped(museum: str, quiet: Page, full_gallery: str) -> None:
    quiet.emulate_media(color_scheme="light", reduced_motion="reduce")
    quiet.goto(full_gallery)
    quiet.locator("#wall").focus()
    quiet.evaluate("scrollTo(0, 0)")
    quiet.keyboard.press("Tab")
    link = quiet.locator(".piece a").first
    expect(link).to_be_focused()
    box = link.bounding_box()
    assert box
    for x, y in (
        (box["x"] - 5, box["y"] + 40),
        (box["x"] + box["width"] + 5, box["y"] + 40),
        (box["x"] + 40, box["y"] - 5),
    ):
        assert pixel_at(quiet, x, y) == (11, 87, 194)


def test_a_visitor_finds_their_own_walks(website: Page, system: LocalStack) -> None:
    website.goto(f"{system.url}/gallery?mine=true")
    expect(website.get_by_text("You have made no walks in this browser yet.")).to_be_visible()
    website.goto(system.url)
    website.locator("summary").click()
    website.get_by_label("Hang it in the gallery").uncheck()
    website.locator("#stop-0").fill("a secret")
    website.locator("#frames").fill("2")
    website.get_by_role("button", name="Make the walk").click()
    website.wait_for_url(re.compile("/walks/"))
    website.goto(f"{system.url}/gallery?mine=true")
    expect(website.locator(".piece")).to_contain_text("a secret")


def test_the_figure_shows_even_against_equal_steps(website: Page, system: LocalStack) -> None:
    website.emulate_media(reduced_motion="reduce")
    website.goto(f"{system.url}/about")
    notice = website.locator(".largest-step")
    expect(notice).to_contain_text("up to 13 %")
    website.get_by_label("Equal steps").check()
    expect(notice).not_to_contain_text("up to 13 %")
    points = website.locator(".point")
    expect(points).to_have_count(9)
    website.get_by_label("Points", exact=True).press("ArrowRight")
    expect(points).to_have_count(10)
    website.get_by_label("Place on the line").press("End")
    expect(website.locator(".walker").first).to_have_attribute("cx", "600")
