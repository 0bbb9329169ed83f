"""Files of a private bucket whose signed URLs expire while a page is open."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Page, Response, Route, expect

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.storage import bucket
from momalisa.walks import queries
from tests.conftest import until
from tests.finished_walks import make_finished_walk
from worker.media import encoders
from worker.media.metadata import Caption

Spec = Callable[..., WalkSpec]


@pytest.fixture
def expiring(private_bucket: object, monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """A private bucket whose URLs expire at the last of these times."""
    moments = [datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)]
    monkeypatch.setattr(bucket, "urls_expire_at", lambda: moments[-1])
    return moments


def held_until(url: str) -> datetime:
    """Return when a signed URL expires."""
    query = parse_qs(urlsplit(url).query)
    made = datetime.strptime(query["X-Goog-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return made + timedelta(seconds=int(query["X-Goog-Expires"][0]))


def test_expiring_urls_are_renewed_while_a_walk_is_shown(
    museum: str, quiet: Page, spec: Spec, expiring: list[datetime]
) -> None:
    walk_id = make_finished_walk(spec(frames=8))
    asked: Counter[str] = Counter()

    def refuse_the_third_at_first(route: Route) -> None:
        path = urlsplit(route.request.url).path
        asked[path] += 1
        refused = path == third and len(expiring) == 1
        return route.fulfill(status=403) if refused else route.continue_()

    with transaction() as session:
        name = str(queries.get(session, walk_id, viewer=None).frames[3].object)
    third = urlsplit(bucket.url(name, museum)).path
    quiet.clock.install()
    quiet.emulate_media(reduced_motion="reduce")
    quiet.route("**/frames/**", refuse_the_third_at_first)
    quiet.goto(f"{museum}/walks/{walk_id}")
    player = quiet.locator("frame-player")
    expect(player).to_have_attribute("data-frames", "8")
    player.get_by_role("slider").press("End")
    expect(player).to_have_attribute("data-loaded", "7")
    expect(quiet.locator(".notice")).to_contain_text("this page keeps trying")
    gif = quiet.get_by_role("link", name=re.compile("GIF"))
    first = gif.get_attribute("href") or ""
    assert abs(held_until(first) - expiring[0]) <= timedelta(seconds=1)

    expiring.append(expiring[0] + timedelta(hours=1))
    quiet.clock.fast_forward("59:30")  # half a minute before the URLs expire
    expect(gif).not_to_have_attribute("href", first)
    assert abs(held_until(gif.get_attribute("href") or "") - expiring[1]) <= timedelta(seconds=1)
    expect(player).to_have_attribute("data-loaded", "8")
    expect(quiet.locator(".notice")).to_have_count(0)
    assert {times for path, times in asked.items() if path != third} == {1}  # loaded frames are not fetched again
    with quiet.expect_download() as download:
        gif.click()
    assert re.fullmatch(r"a-giraffe-to-a-battleship-[0-9a-f]{4}\.gif", download.value.suggested_filename)


def test_urls_that_expired_in_a_background_tab_are_renewed_on_return(
    museum: str, quiet: Page, spec: Spec, expiring: list[datetime]
) -> None:
    walk_id = make_finished_walk(spec())
    quiet.clock.install()
    quiet.goto(f"{museum}/walks/{walk_id}")
    gif = quiet.get_by_role("link", name=re.compile("GIF"))
    turn = """(away) => {
        Object.defineProperty(document, "hidden", { get: () => away, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    for hours in (1, 2):
        before = gif.get_attribute("href") or ""
        quiet.evaluate(turn, True)
        expiring.append(expiring[0] + timedelta(hours=hours))
        quiet.clock.fast_forward("02:00:00")
        expect(gif).to_have_attribute("href", before)
        quiet.evaluate(turn, False)
        expect(gif).not_to_have_attribute("href", before)


def test_urls_that_expire_early_are_renewed_when_one_fails(
    museum: str, quiet: Page, spec: Spec, expiring: list[datetime]
) -> None:
    walk_id = make_finished_walk(spec(frames=8))
    with transaction() as session:
        third = str(queries.get(session, walk_id, viewer=None).frames[3].object)

    def refuse_old_addresses(route: Route) -> None:
        if held_until(route.request.url) > expiring[0] + timedelta(minutes=1):
            return route.continue_()
        if len(expiring) == 1:
            expiring.append(expiring[0] + timedelta(hours=1))
        return route.fulfill(status=403)

    quiet.route(f"**/{third}?*", refuse_old_addresses)
    quiet.goto(f"{museum}/walks/{walk_id}")
    quiet.get_by_role("slider").press("Home")
    expect(quiet.locator("frame-player")).to_have_attribute("data-loaded", "8")


def test_no_page_needs_the_urls_that_it_came_with(
    museum: str, quiet: Page, spec: Spec, expiring: list[datetime]
) -> None:
    """As in a tab that is opened again the next day: its page is an old one, whose URLs have all expired."""
    walk_id = make_finished_walk(spec(frames=24))
    refused: list[str] = []

    def refuse_expired(route: Route) -> None:
        if held_until(route.request.url) > expiring[-1] - timedelta(minutes=1):
            return route.continue_()
        refused.append(route.request.url)
        return route.fulfill(status=403)

    def expire(answer: Response) -> None:
        if answer.request.is_navigation_request():
            expiring.append(expiring[-1] + timedelta(hours=1))

    quiet.route("**/*X-Goog-Signature=*", refuse_expired)
    quiet.on("response", expire)
    for path, act, film in (
        ("/gallery", quiet.locator(".piece a").first.hover, "video.running"),
        (f"/exhibition?walks={walk_id}", None, ".here video"),
        (f"/walks/{walk_id}", None, "frame-player video"),
        (f"/walks/{walk_id}/embed", quiet.get_by_role("button", name="Play").click, "video"),
        (f"/?from={walk_id}", None, "video.still"),
    ):
        refused.clear()
        quiet.goto(museum + path)
        if act:
            act()
        quiet.wait_for_function("(film) => document.querySelector(film)?.currentTime > 0.2", arg=film)
        assert [url for url in refused if "/walk.mp4" in url], path
        images = "[...document.images].every((image) => image.complete && image.naturalWidth)"
        quiet.wait_for_function(images)
        assert not (path == f"/walks/{walk_id}" and [url for url in refused if "/frames/" in url])


def test_a_film_whose_url_expires_as_it_plays_goes_on_where_it_was(
    museum: str, quiet: Page, spec: Spec, expiring: list[datetime], tmp_path: Path
) -> None:
    walk_id = make_finished_walk(spec(frames=48))
    noise = np.random.default_rng(7).integers(0, 256, (48, 64, 64, 3), np.uint8)  # for a film of many blocks
    encoders.write_mp4(tmp_path / "noise.mp4", lambda: iter(noise), 12, Caption("", ""))
    film = (tmp_path / "noise.mp4").read_bytes()
    half = len(film) // 2
    rest: list[Route] = []

    def send_the_first_half(route: Route) -> None:
        if route.request.headers.get("range") not in {None, "bytes=0-"}:
            return rest.append(route)
        headers = {"Content-Range": f"bytes 0-{half - 1}/{len(film)}", "Content-Type": "video/mp4"}
        return route.fulfill(status=206, headers=headers, body=film[:half])

    quiet.route("**/walk.mp4?*", send_the_first_half)
    quiet.goto(f"{museum}/walks/{walk_id}/embed")
    quiet.get_by_role("button", name="Play").click()
    quiet.wait_for_function("() => document.querySelector('video').currentTime > 1")
    quiet.evaluate("""() => document.querySelector("video").addEventListener("loadeddata", ({ target }) => {
        globalThis.resumed = target.currentTime;
    })""")
    until(lambda: rest)
    for route in rest:
        route.fulfill(status=403)
    quiet.wait_for_function("() => document.querySelector('video').currentTime > 2.5")  # in its second half
    assert quiet.evaluate("resumed") > 1
    expect(quiet.get_by_role("button", name="Pause")).to_be_visible()
