"""Walks on other sites: oEmbed, as a consumer of the specification reads it, and the page for frames."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.walks import service
from tests.clients import submit
from tests.finished_walks import OWNER, make_finished_walk

Spec = Callable[..., WalkSpec]

REQUIRED = {"video": {"html", "width", "height"}, "rich": {"html", "width", "height"}, "link": set[str]()}
OPTIONAL = {"title", "author_name", "author_url", "provider_name", "provider_url", "cache_age"}
THUMBNAIL = {"thumbnail_url", "thumbnail_width", "thumbnail_height"}
NUMBERS = {"width", "height", "cache_age", "thumbnail_width", "thumbnail_height"}


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def discovered(page: str) -> dict[str, str]:
    """Return the URLs of the descriptions that a page links to, by media type."""
    links = [attributes for tag, attributes in Tags(page).found if tag == "link"]
    return {link["type"]: link["href"] for link in links if link.get("type", "").endswith("+oembed")}


def consume(api: TestClient, url: str) -> dict[str, Any]:
    """Return what a provider answers, checked as the specification says (https://oembed.com, section 2.3)."""
    answer = api.get(url)
    assert answer.status_code == 200, answer.text
    media_type = answer.headers["Content-Type"].partition(";")[0]
    if "format=xml" in url:
        assert media_type == "text/xml"
        root = ElementTree.fromstring(answer.content)  # noqa: S314 - our own
        assert root.tag == "oembed"
        found: dict[str, Any] = {child.tag: child.text for child in root}
        assert len(found) == len(root)
        found |= {name: int(found[name]) for name in NUMBERS & found.keys()}
    else:
        assert media_type == "application/json"
        found = answer.json()
    assert found["version"] == "1.0"
    assert REQUIRED[found["type"]] <= found.keys()
    assert found.keys() <= {"version", "type"} | REQUIRED[found["type"]] | OPTIONAL | THUMBNAIL
    assert len(THUMBNAIL & found.keys()) in {0, 3}
    assert all(isinstance(found[name], int) and found[name] > 0 for name in NUMBERS & found.keys())
    assert all(
        urlsplit(value).scheme in {"http", "https"} for name, value in found.items() if name.endswith("_url")
    )
    if "html" in found:
        [(tag, attributes)] = Tags(found["html"]).found
        assert tag == "iframe"
        assert (attributes["width"], attributes["height"]) == (str(found["width"]), str(found["height"]))
        assert urlsplit(attributes["src"]).netloc == "testserver"
        assert "<script" not in found["html"]
    return found


@pytest.fixture
def walk_id(api: TestClient, spec: Spec) -> UUID:
    return make_finished_walk(spec(prompts=('a "quoted" <fox> & 猫', "a boat"), frames=2, width=128, height=64))


def test_a_consumer_discovers_and_reads_the_description_of_a_walk(api: TestClient, walk_id: UUID) -> None:
    page = api.get(f"/walks/{walk_id}").text
    assert re.search(r'property="og:image" content="[^"]+/card\.jpg"', page)
    links = discovered(page)
    assert set(links) == {"application/json+oembed", "text/xml+oembed"}
    by_json, by_xml = (consume(api, link) for link in links.values())
    assert by_json == by_xml
    assert by_json["thumbnail_url"].endswith("/card.jpg")
    assert (by_json["type"], by_json["title"]) == ("video", 'a "quoted" <fox> & 猫 → a boat')
    src = Tags(by_json["html"]).found[0][1]["src"]
    frame = api.get(src)
    assert (frame.status_code, frame.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("limits", "type_"),
    [("maxwidth=300", "video"), ("maxheight=240", "video"), ("maxwidth=1300&maxheight=900", "video"),
     ("maxwidth=150", "link"), ("maxheight=90&maxwidth=1", "link")],
)  # fmt: skip
def test_a_description_keeps_to_the_room_there_is(api: TestClient, walk_id: UUID, limits: str, type_: str) -> None:
    found = consume(api, f"/oembed?url=http://testserver/walks/{walk_id}&{limits}")
    most = dict(limit.removeprefix("max").split("=") for limit in limits.split("&"))
    assert found["type"] == type_
    for side, pixels in most.items():
        assert found.get(side, 0) <= int(pixels)
        assert found.get(f"thumbnail_{side}", 0) <= int(pixels)
    assert ("thumbnail_url" in found) == all(
        int(pixels) >= {"width": 128, "height": 64}[side] for side, pixels in most.items()
    )
    assert ("card.jpg" in found.get("thumbnail_url", "")) == (most == {"width": "1300", "height": "900"})


def test_a_walk_without_a_film_is_only_a_link(api: TestClient) -> None:
    walk = submit(api)
    assert consume(api, f"/oembed?url=http://testserver/walks/{walk}")["type"] == "link"
    assert "0 of" in api.get(f"/walks/{walk}/embed").text


@pytest.mark.parametrize(
    ("query", "status", "problem"),
    [
        ("url=http://testserver/walks/{walk}&format=yaml", 501, "format-not-supported"),
        ("url=http://testserver/walks/00000000-0000-4000-8000-000000000000", 404, "walk-not-found"),
        ("url=http://testserver/walks/none", 404, "walk-not-found"),
        ("url=http://testserver/gallery", 404, "walk-not-found"),
        ("url=http://elsewhere/walks/{walk}", 404, "walk-not-found"),
        ("url=https://testserver/walks/{walk}", 404, "walk-not-found"),
        ("url=http://[::/walks/{walk}", 404, "walk-not-found"),
        ("url=http://testserver/walks/{walk}&maxwidth=-1", 422, "invalid-request"),
        ("format=json", 422, "invalid-request"),
    ],
)
def test_a_consumer_learns_what_cannot_be_described(
    api: TestClient, walk_id: UUID, query: str, status: int, problem: str
) -> None:
    answer = api.get("/oembed?" + query.format(walk=walk_id))
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{problem}")


def test_a_private_walk_is_shown_on_no_other_site(api: TestClient) -> None:
    walk = submit(api, public=False)
    description, frame = f"/oembed?url=http://testserver/walks/{walk}", f"/walks/{walk}/embed"
    answer = api.get(description)  # its owner may know that it exists
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/walk-private")
    assert "WWW-Authenticate" in answer.headers
    assert discovered(api.get(f"/walks/{walk}").text) == {}
    for _ in range(2):
        shown = api.get(frame)
        assert shown.status_code == 404
        assert "a giraffe" not in shown.text
        api.cookies.clear()
    assert (api.get(description).status_code, api.get(description).json()["type"]) == (
        404,
        "/problems/walk-not-found",
    )


def test_only_the_page_for_frames_can_be_framed(api: TestClient, walk_id: UUID) -> None:
    gone = make_gone(walk_id)
    for path in (f"/walks/{walk_id}/embed", f"/walks/{gone}/embed", "/walks/none/embed"):
        answer = api.get(path, headers={"Accept": "text/html"})
        policy = answer.headers["Content-Security-Policy"]
        assert policy.endswith("frame-ancestors *")
        assert "unsafe" not in policy
        assert "connect-src" not in policy
        assert not {"set-cookie", "x-frame-options", "access-control-allow-origin"} & answer.headers.keys()
    for path in ("/", "/gallery", "/about", "/docs", f"/walks/{walk_id}", "/walks/none", "/nothing", "/oembed"):
        answer = api.get(path, headers={"Accept": "text/html"})
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path


def make_gone(walk_id: UUID) -> UUID:
    """Create another walk, and delete it."""
    with transaction() as session:
        kept = session.get(Walk, walk_id)
        assert kept
        gone = service.create(session, kept.spec, public=True, owner=OWNER).id
    with transaction() as session:
        service.delete(session, gone, owner=OWNER)
    return gone
