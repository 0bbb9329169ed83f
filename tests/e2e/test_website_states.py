"""States of the website: an empty gallery, no server, a limit exceeded, and walks that are gone."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from tests.conftest import until, wait_for_workers
from tests.e2e.conftest import ADDRESS, DONE, expect_axe_finds_nothing, name_stops, submit

Finished = Callable[..., dict[str, Any]]


def answer(status: int, **headers: str) -> Callable[[Route], None]:
    """Answer with a problem in place of the API."""
    body = {"type": "/problems/x", "title": "Too much at once", "status": status, "detail": "That was too much."}
    return lambda route: route.fulfill(
        status=status, headers=headers, content_type="application/problem+json", body=json.dumps(body)
    )


@pytest.fixture
def running(website: Page) -> Iterator[Page]:
    """The page of a long walk, which it follows; the walk is canceled afterwards."""
    with website.expect_response("**/events"):
        submit(website, "a castle", "a comet", 240)
    yield website
    website.unroute_all(behavior="ignoreErrors")
    website.context.set_offline(False)
    website.evaluate("fetch(`/v1${location.pathname}/cancel`, { method: 'POST' })")


def test_an_empty_gallery_invites_to_make_the_first_walk(website: Page, system: LocalStack) -> None:
    website.goto(f"{system.url}/gallery?mine=true")
    website.get_by_role("link", name="Make the first").click()
    expect(website.get_by_role("button", name="Make the walk")).to_be_visible()


def test_offline_keeps_the_words_and_sends_them_later(website: Page) -> None:
    name_stops(website, "a fox", "a boat")
    website.locator("#frames").fill("2")
    website.context.set_offline(True)
    website.get_by_role("button", name="Make the walk").click()
    expect(website.locator("#form-error")).to_contain_text("You are offline.")
    expect(website.locator("#stop-0")).to_have_value("a fox")
    website.context.set_offline(False)
    website.get_by_role("button", name="Make the walk").click()
    website.wait_for_url(ADDRESS)


def test_a_lost_response_creates_no_second_walk(website: Page, system: LocalStack) -> None:
    keys: list[str] = []

    def lose_the_first(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()  # the server gets it, but its response is lost
            route.abort()
        else:
            route.continue_()

    website.route("**/v1/walks", lose_the_first)
    name_stops(website, "a lost answer", "a boat")
    website.locator("#frames").fill("2")
    website.get_by_role("button", name="Make the walk").click()
    expect(website.locator("#form-error")).to_contain_text("does not answer just now")
    website.get_by_role("button", name="Make the walk").click()
    website.wait_for_url(ADDRESS)
    assert keys[0] == keys[1]
    website.goto(f"{system.url}/gallery?mine=true&q=lost+answer")
    expect(website.locator(".piece")).to_have_count(1)


def test_at_the_limit_the_page_says_how_long_to_wait_and_counts_down(website: Page) -> None:
    website.clock.install()
    website.route("**/v1/walks", answer(429, **{"Retry-After": "42"}))
    name_stops(website, "a fox", "a boat")
    website.get_by_role("button", name="Make the walk").click()
    expect(website.locator("#form-error")).to_contain_text("That was too much. Your walk stays here;")
    expect(website.locator("#form-error")).to_contain_text("in 42 seconds")
    website.clock.run_for(30_000)
    expect(website.get_by_role("button", name="Make the walk in 12 s")).to_be_visible()
    website.clock.run_for(15_000)
    expect(website.locator("#form-error")).to_have_text("You can send it again now.")


def test_an_open_page_goes_on_after_the_whole_system_was_restarted(quiet: Page, tmp_path: Path) -> None:
    with stack.started(
        LocalStack(tmp_path, port=free_port(), workers=1)
    ) as system:  # not the one of the other tests
        quiet.goto(system.url)
        submit(quiet, "a castle", "a comet", 240)
        player, notice = quiet.locator("frame-player"), quiet.locator(".notice")
        expect(player).to_have_attribute("data-frames", re.compile("^[1-9]"), timeout=DONE)
        system.stop()
        expect(notice).to_contain_text("this page keeps asking", timeout=DONE)
        shown = int(player.get_attribute("data-frames") or 0)  # with those that were on their way
        system.start()
        expect(notice).to_have_count(0, timeout=DONE)
        until(lambda: int(player.get_attribute("data-frames") or 0) > shown, 240)  # which come from the bucket


def test_a_walk_waits_for_the_network(running: Page) -> None:
    expect(running.locator(".count")).to_be_visible()
    running.context.set_offline(True)
    expect(running.locator(".notice")).to_contain_text("You are offline", timeout=DONE)
    running.context.set_offline(False)
    expect(running.locator(".notice")).to_have_count(0, timeout=DONE)


def test_a_hidden_page_neither_listens_nor_asks(running: Page) -> None:
    asked: list[str] = []
    running.clock.install()
    with running.expect_response("**/events"):
        running.reload()
    running.on("request", lambda request: asked.append(urlsplit(request.url).path))
    with running.expect_event("requestfailed", lambda request: request.url.endswith("/events")):  # it is closed
        running.evaluate("""() => {
            Object.defineProperty(document, "hidden", { get: () => globalThis.away });
            globalThis.away = true;
            document.dispatchEvent(new Event("visibilitychange"));
        }""")
    running.clock.run_for(60_000)
    running.evaluate("fetch('/v1/models')")  # requests are reported in order
    assert [path for path in asked if path.startswith("/v1/")] == ["/v1/models"]
    with running.expect_response("**/events"):
        running.evaluate("globalThis.away = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_progress_is_announced_each_quarter(website: Page, system: LocalStack) -> None:
    wait_for_workers(system)
    said: list[str] = []

    def heard(text: str) -> None:
        said.append(text)

    website.expose_function("heard", heard)
    website.add_init_script("""addEventListener("DOMContentLoaded", () => {
        const place = document.getElementById("announcer");
        const observer = new MutationObserver(() => heard(place.textContent));
        observer.observe(place, { childList: true, characterData: true, subtree: true });
    })""")
    submit(website, "a tree", "a house", 40)
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)
    expect(website.locator("#announcer")).to_have_text("Finished")
    progress = [text for text in said if "of 40 frames" in text]
    assert progress
    assert set(progress) <= {f"{frames} of 40 frames" for frames in (10, 20, 30, 40)}


def test_a_failed_walk_says_why_and_offers_a_way_on(website: Page, finished: Finished) -> None:
    walk = finished("a fox", "a boat", frames=240, steps=100, deadline_seconds=1)
    assert walk["status"] == "failed"
    website.goto(walk["urls"]["web"])
    expect(website.get_by_text("This walk could not be finished").first).to_be_visible()
    expect(website.locator(".reason")).to_have_text(walk["error"]["message"])
    expect_axe_finds_nothing(website)
    website.get_by_role("link", name="Try again").click()
    expect(website.locator("#stop-0")).to_have_value("a fox")


@pytest.mark.parametrize("name", ["00000000-0000-4000-8000-000000000000", "mistyped"])
def test_an_unknown_walk_offers_a_way_on(website: Page, system: LocalStack, name: str) -> None:
    answered = website.goto(f"{system.url}/walks/{name}")
    assert answered
    assert answered.status == 404
    expect(website.get_by_role("heading", name="No such walk")).to_be_visible()
    expect(website.get_by_role("link", name="Make a walk")).to_have_attribute("href", "/")


def test_a_walk_that_is_removed_while_it_is_watched_says_so(running: Page) -> None:
    expect(running.locator(".count")).to_be_visible()
    running.evaluate("fetch(`/v1${location.pathname}`, { method: 'DELETE' })")
    expect(running.get_by_role("heading", name="No such walk")).to_be_visible(timeout=DONE)
    expect(running.get_by_role("link", name="Make a walk")).to_be_visible()


def test_an_expired_walk_says_so(running: Page) -> None:
    running.route("**/v1/walks/**", answer(410))
    running.reload()
    expect(running.get_by_role("heading", name="The walk has expired")).to_be_visible(timeout=DONE)


def test_an_unavailable_page_reloads_by_itself(website: Page, system: LocalStack) -> None:
    away = True

    def closed(route: Route) -> None:
        if not away:
            return route.continue_()
        body = route.fetch(url=f"{system.url}/walks/none").text().replace('data-status="404"', 'data-status="503"')
        return route.fulfill(status=503, content_type="text/html", body=body)

    website.route("**/gallery", closed)
    website.goto(f"{system.url}/gallery")
    expect(website.locator("#again")).to_contain_text("Trying again in")
    away = False
    expect(website.get_by_role("heading", name="Gallery")).to_be_visible(timeout=30_000)


def test_without_scripts_a_plain_form_makes_a_walk(scriptless: Page, system: LocalStack) -> None:
    page, example = scriptless, re.compile(r"^/static/walks/.*\.mp4$")
    page.goto(system.url)
    film = page.locator("video[controls]")
    expect(film).to_have_attribute("src", example)
    size = film.bounding_box()
    assert size
    with page.expect_request("**/*.mp4"):
        film.click(position={"x": 26, "y": size["height"] - 44})  # the play button of the browser's controls
    page.get_by_label("From", exact=True).fill("a \u202efox")
    page.get_by_label("To", exact=True).fill("a boat")
    page.locator("#frames").fill("2")
    page.get_by_role("button", name="Make the walk").click()
    expect(page.locator("#stop-0-error")).to_contain_text("U+202E at character 3")
    expect(page.get_by_label("To", exact=True)).to_have_value("a boat")
    expect(film).to_have_attribute("src", example)
    page.get_by_label("From", exact=True).fill("a fox")
    page.get_by_role("button", name="Make the walk").click()
    page.wait_for_url(ADDRESS)
    expect(page.get_by_role("heading", level=1)).to_have_text("a fox → a boat")
    while page.get_by_role("link", name="Look again").count():
        with page.expect_navigation():  # until the page is complete and has its link
            page.get_by_role("link", name="Look again").click()
    expect(page.get_by_role("link", name="GIF")).to_be_visible()
    page.get_by_role("link", name="Remix").click()
    expect(page.get_by_label("From", exact=True)).to_have_value("a fox")
