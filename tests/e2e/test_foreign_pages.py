"""A page of another site can do nothing to a visitor, tested with a real browser."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page

from api.access import COOKIE
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


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with an empty page, which the test fills in."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
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
