"""Pages of other sites, in a real browser: they can show a walk in a frame, and do nothing to a visitor."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from api.access import COOKIE
from momalisa.domain.spec import WalkSpec
from tests.conftest import until
from tests.e2e.conftest import expect_axe_finds_nothing, pixel_at
from tests.finished_walks import colour, make_finished_walk
from tests.serving import serving

ORDER = {"prompts": ["a giraffe", "a battleship"], "frames": 4, "public": False}

FORM = """<form method="post" action="{site}/walks">
<input name="prompts" value="a rose"><input name="prompts" value="a boat"><input name="frames" value="2">
</form><script>document.forms[0].submit()</script>"""

FETCH = """<script>
const body = '{{"prompts": ["a rose", "a boat"], "frames": 2}}';
const requests = ["{site}/v1/walks", "{site}/v1/walks/{walk}/cancel", "{site}/walks"].map((url) =>
  fetch(url, {{method: "POST", mode: "no-cors", credentials: "include", body}}));
Promise.allSettled(requests).then(() => {{ document.title = "sent"; }});
</script>"""


MOVES = "(film) => new Promise((done) => film.addEventListener('timeupdate', () => film.currentTime && done()))"
"""Waits until a video plays."""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with an empty page, which the test fills in, under the Content-Security-Policy in the query."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        if policy := parse_qs(urlsplit(self.path).query).get("policy"):
            self.send_header("Content-Security-Policy", policy[0])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of a server with pages of another site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    with serving(server):
        yield server.server_port


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another site", "another port"])
@pytest.mark.parametrize("attack", [FORM, FETCH], ids=["form", "fetch"])
def test_a_foreign_page_cannot_affect_a_visitor_or_their_walks(
    museum: str, elsewhere: int, page: Page, attack: str, host: str
) -> None:
    context = page.context
    walk = context.request.post(f"{museum}/v1/walks", data=ORDER).json()
    before = {cookie["name"]: cookie["value"] for cookie in context.cookies(museum)}
    assert before.keys() == {COOKIE}

    page.goto(f"http://{host}:{elsewhere}/")
    with page.expect_response(lambda answer: answer.url.startswith(museum)) as answered:
        page.evaluate(
            "(page) => { document.open(); document.write(page); document.close(); }",
            attack.format(site=museum, walk=walk["id"]),
        )
    assert answered.value.status == 403
    if attack is FETCH:
        page.wait_for_function("document.title === 'sent'")

    assert {cookie["name"]: cookie["value"] for cookie in context.cookies(museum)} == before
    mine = context.request.get(f"{museum}/v1/walks?mine=true").json()["walks"]
    assert [(each["id"], each["status"]) for each in mine] == [(walk["id"], "queued")]
    assert context.request.get(f"{museum}/v1/walks").json()["walks"] == []


HIDDEN = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


SEEN = """(part, there) => new Promise((done) =>
    new IntersectionObserver((seen) => seen.at(-1).isIntersecting === there && done()).observe(part))"""
"""Waits until a part is in view, or is not, and every observer that was there before knows."""


FRAME = "(url) => { document.body.innerHTML = `<iframe src=${url}></iframe><p style='height: 3000px'></p>`; }"
"""Shows a page in a frame, above much else."""


def test_a_walk_in_a_frame_is_looked_at_again_only_in_sight(museum: str, elsewhere: int, quiet: Page) -> None:
    walk = quiet.request.post(f"{museum}/v1/walks", data={**ORDER, "public": True}).json()
    quiet.clock.install()
    quiet.goto(f"http://localhost:{elsewhere}/")
    quiet.evaluate(FRAME, f"{museum}/walks/{walk['id']}/embed")
    inside = quiet.frame_locator("iframe").locator(".frame")
    expect(inside).to_contain_text("0 of 4 frames")
    frame = quiet.frames[1]
    loaded: list[str] = []
    quiet.on("request", lambda request: loaded.append(request.url))
    quiet.evaluate("scrollTo(0, 3000)")
    inside.evaluate(SEEN, False)
    quiet.clock.fast_forward(60_000)
    inside.evaluate(SEEN, False)
    assert loaded == []
    frame.evaluate(HIDDEN, True)
    quiet.evaluate("scrollTo(0, 0)")
    inside.evaluate(SEEN, True)
    assert loaded == []
    with quiet.expect_response(frame.url):
        frame.evaluate(HIDDEN, False)
    expect(inside).to_be_visible()
    with quiet.expect_response(frame.url):
        quiet.clock.fast_forward(15_000)


def test_a_page_with_a_strict_policy_shows_a_walk_in_a_frame(
    museum: str, elsewhere: int, quiet: Page, browser: Browser, spec: Callable[..., WalkSpec]
) -> None:
    """It plays and can be scrubbed, in a sandbox, too, and without scripts; no other page can be framed."""
    walk = make_finished_walk(spec(frames=12, fps=4))
    snippet = quiet.request.get(f"{museum}/oembed?url={museum}/walks/{walk}").json()["html"]
    sandboxed = snippet.replace("<iframe", '<iframe sandbox="allow-scripts"')
    answers: list[Response] = []
    quiet.on("response", lambda answer: answers.append(answer) if answer.url.startswith(museum) else None)
    policy = {"policy": f"default-src 'none'; frame-src {museum}"}
    for html in (snippet, sandboxed):
        answers.clear()
        quiet.goto(f"http://localhost:{elsewhere}/?{urlencode(policy)}")
        quiet.evaluate("(html) => { document.body.innerHTML = html; }", html)
        frame = quiet.frame_locator("iframe")
        film, dot = frame.locator("video"), frame.get_by_role("slider", name="Place on the walk")
        frame.get_by_role("button", name="Play").click()
        expect(frame.get_by_role("button", name="Pause")).to_be_visible()
        film.evaluate(MOVES)
        expect(dot).to_have_attribute("aria-valuetext", "playing")
        dot.focus()
        dot.press("End")
        expect(frame.get_by_role("button", name="Play")).to_be_visible()
        assert film.evaluate("(film) => film.currentTime") > 2
        expect(dot).to_have_attribute("aria-valuetext", "100 %")
        dot.press("Home")
        assert film.evaluate("(film) => film.currentTime") == 0
        assert sum(len(answer.body()) for answer in answers) < 30_000
        assert not [answer for answer in answers if "set-cookie" in answer.headers]

    quiet.goto(f"{museum}/walks/{walk}/embed")
    box = quiet.locator("video").bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    until(lambda: pixel_at(quiet, *middle) == pytest.approx(colour(0), abs=24))  # the first frame, where the dot is
    expect_axe_finds_nothing(quiet)
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(f"{museum}/walks/{walk}/embed")
    assert plain.locator("video").get_attribute("controls") is not None
    expect(plain.get_by_role("link", name="a giraffe")).to_have_attribute("href", f"{museum}/walks/{walk}")
    plain.context.close()

    other = browser.new_page()  # whose console says why
    other.goto(f"http://localhost:{elsewhere}/")
    other.evaluate(FRAME, f"{museum}/walks/{walk}")
    expect(other.frame_locator("iframe").locator("body")).to_contain_text("refused to connect")
    other.close()
