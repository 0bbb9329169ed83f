"""The website with a database that the test fills: empty, very full, and with walks that are gone."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, Page, Request, Route, expect
from sqlalchemy import func, update

from momalisa.db.models import Chunk, Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.queue import leases, workers
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.walks import queries, service
from tests.conftest import run_retention, until
from tests.e2e.conftest import expect_axe_finds_nothing, pixel_at
from tests.finished_walks import OWNER, colour, draw, insert_finished_walks, make_finished_walk
from worker import assemble_task, runner
from worker.lease import Lease
from worker.process.worker import Worker
from worker.recording import Record

Spec = Callable[..., WalkSpec]


def test_an_empty_museum_invites_visitors_to_make_the_first_walk(museum: str, quiet: Page) -> None:
    answered = quiet.goto(f"{museum}/gallery")
    assert answered
    assert answered.status == 200
    expect(quiet.get_by_text("The walls are bare.")).to_be_visible()
    expect_axe_finds_nothing(quiet)
    quiet.get_by_role("link", name="Make it").click()
    expect(quiet.get_by_role("button", name="Make the walk")).to_be_visible()
    for path, words in (("/exhibition", "No finished walk hangs"), ("/problems/walk-not-found", "What to do")):
        quiet.goto(museum + path)
        expect(quiet.get_by_text(words)).to_be_visible()
        expect_axe_finds_nothing(quiet)


def test_an_expired_walk_says_that_it_is_gone(museum: str, quiet: Page, spec: Spec) -> None:
    walk_id = make_finished_walk(spec())
    with transaction() as session:
        session.execute(update(Walk).values(finished_at=func.now() - timedelta(days=31)))
    run_retention()
    answered = quiet.goto(f"{museum}/walks/{walk_id}")
    assert answered
    assert answered.status == 410
    expect(quiet.get_by_role("heading", name="The walk has expired")).to_be_visible()
    expect(quiet.locator(".reason")).to_contain_text("A walk hangs here for 30 days")
    expect(quiet.get_by_role("link", name="Make a walk")).to_have_attribute("href", "/")
    expect_axe_finds_nothing(quiet)
    quiet.goto(f"{museum}/gallery")
    expect(quiet.get_by_text("The walls are bare.")).to_be_visible()


def test_a_removed_walk_and_one_that_never_existed_look_the_same(museum: str, quiet: Page, spec: Spec) -> None:
    walk_id = make_finished_walk(spec())
    with transaction() as session:
        service.delete(session, walk_id, owner=OWNER)
    for name in (str(walk_id), "00000000-0000-4000-8000-000000000000"):
        answered = quiet.goto(f"{museum}/walks/{name}")
        assert answered
        assert answered.status == 404
        expect(quiet.get_by_role("heading", name="No such walk")).to_be_visible()
        expect(quiet.get_by_text("Nothing hangs here.")).to_be_visible()
        assert quiet.evaluate("document.documentElement.scrollHeight <= innerHeight")  # nothing to scroll to
        expect_axe_finds_nothing(quiet)


def test_pages_are_readable_without_scripts_and_on_paper(
    museum: str, quiet: Page, browser: Browser, spec: Spec
) -> None:
    walk_id = make_finished_walk(spec())
    page = browser.new_context(java_script_enabled=False, color_scheme="dark").new_page()
    page.goto(f"{museum}/about")
    pictures = [picture.screenshot() for picture in page.locator(".figure-still img").all()]
    assert len(set(pictures)) == 9
    page.emulate_media(media="print", color_scheme="dark")
    for path in ("/", "/about", "/gallery", "/exhibition", f"/walks/{walk_id}", "/walks/none"):
        page.goto(museum + path)
        expect(page.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
        expect(page.locator("h1")).to_have_css("color", "rgb(23, 33, 43)")
        expect(page.get_by_role("navigation")).to_be_hidden()
        expect(page.get_by_role("contentinfo")).to_be_hidden()
    page.context.close()
    quiet.emulate_media(media="print", color_scheme="dark", reduced_motion="reduce")
    quiet.goto(f"{museum}/exhibition")
    expect(quiet.locator(".exhibiting .title")).to_have_css("color", "rgb(23, 33, 43)")
    expect(quiet.get_by_role("button").or_(quiet.get_by_role("link", name="Leave"))).to_have_count(0)
    quiet.goto(f"{museum}/walks/{walk_id}")
    expect(quiet.locator("frame-player .work")).to_be_visible()
    expect(quiet.get_by_role("button").or_(quiet.get_by_role("slider"))).to_have_count(0)


WATCHED = """(() => {
    const sources = new WeakMap();
    const { createImageBitmap: make } = globalThis;
    globalThis.createImageBitmap = (image, ...more) =>
        make(image, ...more).then((bitmap) => (sources.set(bitmap, image.src), bitmap));
    const { drawImage } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.drawImage = function (picture, ...more) {
        if (this.canvas.matches(".work")) globalThis.shown = sources.get(picture);
        return drawImage.call(this, picture, ...more);
    };
})()"""
"""Records which picture is drawn as the work; it must be a bitmap, which needs no decoding."""

REACHED = """() => [globalThis.shown, document.querySelector(".scrubber").valueAsNumber / 4096]"""


def test_240_frames_are_fetched_once_to_be_scrubbed_each_in_its_place(museum: str, quiet: Page, spec: Spec) -> None:
    walk_id = make_finished_walk(spec(prompts=("a giraffe", "a rose", "a battleship"), frames=240, pacing="even"))
    with transaction() as session:
        frames = queries.get(session, walk_id, viewer=None).frames
    positions = [frame.position for frame in frames]
    urls = {frame.position: bucket.url(frame.object or "", museum) for frame in frames}
    asked: list[str] = []
    quiet.on("request", lambda request: asked.append(request.url))
    quiet.add_init_script(WATCHED)
    quiet.goto(f"{museum}/walks/{walk_id}")
    player = quiet.locator("frame-player")
    expect(player).to_have_attribute("data-frames", "240")
    expect(player).to_have_attribute("data-rank", re.compile("[1-9]"))  # the film plays
    quiet.get_by_role("button", name="Still").click()
    assert [url for url in asked if "/frames/" in url] == []

    player.get_by_role("slider").press("Home")
    expect(player).to_have_attribute("data-loaded", "240")
    assert Counter(url for url in asked if "/frames/" in url) == Counter(urls.values())
    asked.clear()

    scrubber, work = player.get_by_role("slider").bounding_box(), player.locator(".work").bounding_box()
    assert scrubber
    assert work
    thumb, middle = 12, scrubber["y"] + scrubber["height"] / 2
    quiet.mouse.move(scrubber["x"] + thumb, middle)
    quiet.mouse.down()
    seen = set()
    for pixel in range(0, int(scrubber["width"]) - 2 * thumb, 3):
        quiet.mouse.move(scrubber["x"] + thumb + pixel, middle)
        shown, place = quiet.evaluate(REACHED)
        nearest = min(positions, key=lambda position: abs(position - place))
        assert shown == urls[nearest]
        seen.add(nearest)
        if pixel % 60 == 0:
            assert pixel_at(quiet, work["x"] + work["width"] / 2, work["y"] + work["height"] / 2) == colour(nearest)
    quiet.mouse.up()
    assert len(seen) > 100  # some are closer together than the pixels of the scrubber; arrow keys reach them

    player.get_by_role("slider").press("Home")
    for position in positions:
        assert quiet.evaluate(REACHED)[0] == urls[position]
        quiet.keyboard.press("ArrowRight")
    assert asked == []


def test_pictures_load_once_the_bucket_is_back(museum: str, quiet: Page, spec: Spec) -> None:
    walk_id = make_finished_walk(spec())
    quiet.clock.install()
    away = re.compile(r"/walk\.mp4|/artifacts/mp4|/frames/")
    refused: Counter[str] = Counter()

    def refuse(route: Route) -> None:
        refused[urlsplit(route.request.url).path] += 1
        route.abort()

    quiet.route(away, refuse)
    quiet.goto(f"{museum}/walks/{walk_id}")
    expect(quiet.locator(".notice")).to_contain_text("this page keeps trying")  # the film fails, then the frames
    assert refused[f"/v1/walks/{walk_id}/artifacts/mp4"] == 1
    quiet.unroute(away)
    quiet.clock.fast_forward(30_000)
    expect(quiet.locator("frame-player")).to_have_attribute("data-frames", "4")
    expect(quiet.locator(".notice")).to_have_count(0)


def test_a_finished_walk_is_shown_at_once_in_its_place(
    museum: str, quiet: Page, browser: Browser, spec: Spec
) -> None:
    """With scripts nothing moves, and the first frame comes first; without, there are a film and the same label."""
    walk_id = make_finished_walk(spec(frames=24, negative_prompt="mist", easing="ease-in"))
    between = (Frame.walk_id == walk_id, Frame.position > 0, Frame.position < 1)
    with transaction() as session:
        session.execute(update(Frame).where(*between).values(interpolated=True))
    address = f"{museum}/walks/{walk_id}"
    quiet.add_init_script("""
        globalThis.shifted = 0;
        const add = ({ value }) => { globalThis.shifted += value; };
        new PerformanceObserver((list) => list.getEntries().forEach(add)).observe({ type: "layout-shift" });
        const { createImageBitmap: make } = globalThis; // the pictures of the strip do not come
        globalThis.createImageBitmap = (source, ...more) =>
            source instanceof HTMLVideoElement ? Promise.reject(new Error()) : make(source, ...more);
    """)
    asked: list[str] = []
    quiet.on("request", lambda request: asked.append(request.url))
    quiet.emulate_media(reduced_motion="reduce")
    for width, height in ((390, 844), (1280, 800)):
        quiet.set_viewport_size({"width": width, "height": height})
        quiet.goto(address)
        expect(quiet.locator("frame-player")).to_have_attribute("data-rank", "0")  # and stays there
        quiet.wait_for_load_state("networkidle")
        quiet.get_by_role("link", name="Remix").hover()
        assert quiet.evaluate("globalThis.shifted") < 0.02
        expect(quiet.locator("frame-player")).to_have_attribute("data-rank", "0")
    assert [url for url in asked if "/frames/" in url] == []  # none is fetched for the strip alone

    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(address)
    film = plain.locator("video[controls]")
    assert (film.get_attribute("src") or "").startswith(
        quiet.get_by_role("link", name="MP4").evaluate("a => a.href")
    )
    expect(plain.locator(".facts")).to_contain_text("2 painted, 22 interpolated")
    for part in (".facts", ".downloads"):
        assert plain.locator(part).inner_text().split() == quiet.locator(part).inner_text().split()
    context.close()


def test_the_remaining_time_counts_down_between_updates(museum: str, quiet: Page, spec: Spec) -> None:
    make_finished_walk(spec())
    with transaction() as session:
        session.execute(update(Chunk).values(claimed_at=Chunk.finished_at - timedelta(seconds=100)))
        workers.report_alive(session, "there:1", ChunkKind.RENDER, settings().model_name)
        walk_id = service.create(session, spec(), public=True, owner=OWNER).id
        assert leases.claim(session, ChunkKind.RENDER, "there:1")
    quiet.clock.install()
    quiet.goto(f"{museum}/walks/{walk_id}")
    expect(quiet.locator(".count")).to_have_text("0 of 4 frames · about 2 minutes left")
    quiet.clock.fast_forward(75_000)
    expect(quiet.locator(".count")).to_have_text(re.compile("about [23]0 seconds left"))
    quiet.clock.fast_forward(75_000)
    expect(quiet.locator(".count")).to_have_text("0 of 4 frames · a few seconds left")


def test_a_walk_is_watched_from_its_plan_to_its_film(museum: str, quiet: Page, spec: Spec) -> None:
    """The dot walks; frames hang at their places, then play; the film goes on from them. Streamed or polled."""
    with transaction() as session:
        walk_id = service.create(session, spec(frames=24, pacing="linear"), public=True, owner=OWNER).id
    gate = threading.Semaphore(0)
    painting = threading.Thread(target=paint, args=(gate,))
    painting.start()
    streams: set[Page] = set()

    def note(sent: Request) -> None:
        if sent.url.endswith("/events"):
            streams.add(sent.frame.page)

    quiet.set_viewport_size({"width": 390, "height": 664})
    polling = quiet.context.new_page()
    polling.add_init_script("delete globalThis.EventSource")
    quiet.context.on("request", note)
    for page in (polling, quiet):
        page.goto(f"{museum}/walks/{walk_id}")

    dot = quiet.locator(".plan-way .here")
    start = dot.bounding_box()
    until(lambda: dot.bounding_box() != start)
    quiet.get_by_role("button", name="Still").click()
    stands = dot.bounding_box()
    status = quiet.locator(".on-mat").bounding_box()
    assert status
    assert status["y"] + status["height"] < 664  # in view
    for page in (quiet, polling):
        page.bring_to_front()
        expect(page.locator(".on-mat")).to_contain_text("0 of 24 frames")
    assert dot.bounding_box() == stands

    for frames in (8, 16, 24):
        gate.release()
        for page in (quiet, polling):
            page.bring_to_front()
            if frames == 8:
                expect(page.locator(".plan-picture")).to_have_count(8)
            else:
                expect(page.locator("frame-player")).to_have_attribute("data-frames", str(frames))
        expect_axe_finds_nothing(polling)
    quiet.bring_to_front()
    quiet.get_by_role("slider").press("End")
    gate.release()  # the files
    expect(quiet.get_by_role("link", name="MP4")).to_be_visible()
    expect(quiet.locator("video")).to_have_count(1)
    expect(quiet.locator("frame-player")).to_have_attribute("data-rank", "23")  # where the visitor is
    painting.join()
    assert streams == {quiet}


def paint(gate: threading.Semaphore) -> None:
    """Draw the frames of a walk and make its files, each step after a release of the gate."""

    def one(work: Lease) -> Record:
        gate.acquire()
        return draw(work) if work.claim.kind == ChunkKind.RENDER else assemble_task.assemble(work)

    for kind in (ChunkKind.RENDER, ChunkKind.ASSEMBLE):
        runner.run(Worker(), kind, one)


WALKS, ROOM = 10_000, 480


def test_ten_thousand_walks_are_listed_page_by_page_without_duplicates(
    museum: str, quiet: Page, spec: Spec
) -> None:
    insert_finished_walks(spec(), WALKS)
    seen: list[str] = []
    with httpx.Client(base_url=museum) as visitor:
        onward: str | None = "/gallery"
        while onward:
            page = visitor.get(onward).text
            seen += re.findall(r'<a href="/walks/([0-9a-f-]{36})"', page)
            found = re.search(r'class="more" href="([^"]*)"', page)
            onward = unescape(found[1]) if found else None
    assert len(seen) == len(set(seen)) == WALKS + 1

    def hung() -> list[str]:
        paths: list[str] = quiet.locator(".piece > a:first-child").evaluate_all("all => all.map((a) => a.pathname)")
        return [path.removeprefix("/walks/") for path in paths]

    quiet.goto(f"{museum}/gallery")
    for count in range(24, ROOM, 24):
        expect(quiet.locator(".piece")).to_have_count(count)
        quiet.get_by_role("link", name="Load more").click()
    expect(quiet.locator(".piece")).to_have_count(ROOM)
    assert hung() == seen[:ROOM]
    quiet.get_by_role("link", name="Walk on to the next room").click()  # so that no page grows forever
    expect(quiet.locator(".piece")).to_have_count(24)
    assert hung() == seen[ROOM : ROOM + 24]
    quiet.get_by_role("link", name="Load more").click()
    expect(quiet.locator(".piece")).to_have_count(48)
    quiet.get_by_role("link", name="Back to the newest").click()
    expect(quiet).to_have_url(f"{museum}/gallery")
