"""The pages as chats, search engines and browsers without scripts get them."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from io import BytesIO
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import delete, func, update

from api.web import templates
from api.web.templates import FRONTEND
from momalisa import description
from momalisa.db.models import Artifact, Chunk, Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import catalog, leases, results
from momalisa.walks import service
from tests.claims import made_frames

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
SCRIPTED = ["/", "/gallery", "/exhibition", "/about"]
PAGES = [*SCRIPTED, "/docs"]
Spec = Callable[..., WalkSpec]


@pytest.fixture
def insert_walk(services: object, spec: Spec) -> Callable[..., Walk]:
    """Insert a finished walk."""

    def make(*prompts: str, owner: str = "visitor:someone", public: bool = True) -> Walk:
        with transaction() as session:
            walk = service.create(session, spec(prompts=prompts), public=public, owner=owner)
            walk.status = WalkStatus.SUCCEEDED
            session.add_all(
                Artifact(
                    walk_id=walk.id,
                    kind=kind,
                    object=f"walks/{walk.id}/walk.{kind}",
                    bytes=9,
                    crc32c="AAAAAA==",
                    width=512,
                    height=512,
                )
                for kind in (ArtifactKind.POSTER, ArtifactKind.MP4)
            )
            session.flush()
            return walk

    return make


def card(page: str) -> dict[str, str]:
    found = re.findall(r'<meta (?:property|name)="((?:og|twitter):[^"]+)" content="([^"]*)"', page)
    return dict(found)


def test_a_link_to_a_walk_has_a_preview(api: TestClient, insert_walk: Callable[..., Walk]) -> None:
    walk = insert_walk("a giraffe", "a battleship")
    page = api.get(f"/walks/{walk.id}")
    found = card(page.text)
    assert found["og:title"] == "a giraffe → a battleship"
    assert found["og:description"] == "Latent diffusion, 4 frames."
    assert found["og:image"].endswith(f"walks/{walk.id}/walk.poster")
    assert found["og:video"].endswith(f"walks/{walk.id}/walk.mp4")
    assert found["og:video:type"] == "video/mp4"
    assert found["twitter:card"] == "summary_large_image"
    assert found["og:url"] == f"http://testserver/walks/{walk.id}"


def test_a_link_to_any_other_page_has_a_card(api: TestClient) -> None:
    for path in (*PAGES, "/?to=a+boat", "/gallery?q=a+boat", "/exhibition?walks=7,8&amp;mine=true"):
        found = card(api.get(unescape(path)).text)
        assert found["og:url"] == f"http://testserver{path}"
        assert found["og:title"].endswith("MoMALisa")
        assert found["twitter:card"] == "summary_large_image"
        with Image.open(BytesIO(api.get(found["og:image"]).content)) as image:
            assert image.size == (int(found["og:image:width"]), int(found["og:image:height"])) == (1200, 630)


def test_a_private_walk_has_no_preview_for_others(api: TestClient, insert_walk: Callable[..., Walk]) -> None:
    walk = insert_walk("a secret", "a battleship", public=False)
    page = api.get(f"/walks/{walk.id}", headers=BROWSER)
    assert page.status_code == 404
    assert "a secret" not in page.text


def test_prompts_are_never_interpreted_as_markup(api: TestClient, insert_walk: Callable[..., Walk]) -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    walk = insert_walk(evil, "a battleship")
    for path in (f"/walks/{walk.id}", "/gallery", f"/?from={walk.id}", f"/gallery?q={evil}"):
        page = api.get(path, headers=BROWSER)
        assert page.status_code == 200
        assert "<img src=x" not in page.text


@pytest.mark.parametrize("path", [*PAGES, "/walks/none", "/nothing-here"])
def test_pages_load_only_our_own_files(api: TestClient, path: str) -> None:
    answer = api.get(path, headers=BROWSER)
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.findall(r'<(?!a )[^>]*(?:src|href)="(?:https?:)?//[^"]*', answer.text)  # but links may lead away
    assert "style=" not in answer.text
    assert not re.findall(r"<script(?![^>]*(?:src=|application/json))", answer.text)


@pytest.mark.parametrize(
    "path", ["/walks/none", "/nothing-here", "/gallery?cursor=forged", "/gallery?q=" + 101 * "x"]
)
def test_errors_are_pages_for_people_and_problem_documents_for_programs(api: TestClient, path: str) -> None:
    page = api.get(path, headers=BROWSER)
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'href="/gallery"' in page.text
    document = api.get(path)
    assert document.status_code == page.status_code
    assert document.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/walks", "/walks/", "/", "/gallery", "/gallery/", "/about", "/docs"])
def test_every_address_that_visitors_may_type_shows_a_page(api: TestClient, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = api.request(method, path, headers=BROWSER)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    wrong = api.put(path, headers=BROWSER)  # as pages answer that are reloaded or posted to by mistake
    assert wrong.status_code == 405
    assert "The gallery shows what hangs here." in wrong.text


def test_the_gallery_is_filtered_by_text_in_prompts(api: TestClient, insert_walk: Callable[..., Walk]) -> None:
    for prompts in (("a Giraffe", "a boat"), ("a rose", 'a "quoted" fox'), ("100 % wool", "a cat")):
        insert_walk(*prompts)

    def found(word: str, **more: Any) -> list[str]:
        walks = api.get("/v1/walks", params={"q": word, **more}).json()["walks"]
        return [walk["prompts"][0] for walk in walks]

    assert found("giraffe") == ["a Giraffe"]
    assert found('"quoted"') == ["a rose"]
    assert found("%") == ["100 % wool"]
    assert found("_") == []
    assert found("\\") == []
    assert found("\0") == ["100 % wool", "a rose", "a Giraffe"]
    assert found("prompts") == []  # a name of a setting is not a prompt
    first = api.get("/v1/walks", params={"q": "a ", "limit": 2})
    assert "q=a" in first.headers["Link"]
    assert found("a ", limit=2, cursor=first.json()["next_cursor"]) == ["a Giraffe"]


def test_a_walk_says_whether_it_belongs_to_the_caller(api: TestClient) -> None:
    made = api.post("/v1/walks", json={"prompts": ["a fox", "a boat"], "frames": 2}).json()
    assert made["mine"] is True
    assert api.get(f"/v1/walks/{made['id']}").json()["mine"] is True
    assert api.get("/v1/walks").json()["walks"][0]["mine"] is True
    api.cookies.clear()
    assert api.get(f"/v1/walks/{made['id']}").json()["mine"] is False
    assert api.get("/v1/walks").json()["walks"][0]["mine"] is False


def test_the_plain_form_creates_a_walk_of_its_sender(api: TestClient) -> None:
    form = {
        "prompts": ["a fox", "a boat"],
        "frames": "2",
        "seed": "7",
        "size": "128x128",
        "steps": "",
        "public": "yes",
    }
    answer = api.post("/walks", data=form, follow_redirects=False)
    assert answer.status_code == 303
    walk = api.get(answer.headers["Location"].replace("/walks/", "/v1/walks/")).json()
    assert (walk["prompts"], walk["settings"]["seed"], walk["public"]) == (["a fox", "a boat"], 7, True)
    assert walk["mine"] is True


def test_the_plain_form_is_shown_again_with_errors_and_values(api: TestClient) -> None:
    form = {"prompts": ["a \u202efox", "a boat"], "frames": "many", "guidance": "99", "negative_prompt": "mist"}
    answer = api.post("/walks", data=form)
    assert answer.status_code == 422
    page = answer.text
    assert re.search(r'id="stop-0-error"[^>]*>[^<]*U\+202E at character 3', page)
    assert re.search(r'id="frames-error"[^>]*>must be a whole number<', page)
    assert re.search(r'id="guidance-error"[^>]*>at most 20', page)
    assert 'value="a boat"' in page
    assert 'value="mist"' in page
    assert "<details" in page
    assert " open>" in page


def test_an_empty_end_of_the_plain_form_means_the_example_that_it_shows(api: TestClient) -> None:
    shown = re.findall(r'name="prompts"[^>]*placeholder="([^"]*)"', api.get("/").text)
    for sent, expected in ((["", ""], shown), (["a fox", "", ""], ["a fox", shown[1]])):
        made = api.post("/walks", data={"prompts": sent, "frames": "2"}, follow_redirects=False)
        assert api.get(made.headers["Location"].replace("/walks/", "/v1/walks/")).json()["prompts"] == expected


@pytest.mark.parametrize("ticked", [set(), {"exact"}, {"exact", "large"}])
def test_a_box_of_the_plain_form_that_is_not_ticked_is_off(api: TestClient, ticked: set[str]) -> None:
    form = {"prompts": ["a fox", "a boat"], **dict.fromkeys(ticked, "yes")}
    made = api.post("/walks", data=form, follow_redirects=False)
    walk = api.get(made.headers["Location"].replace("/walks/", "/v1/walks/")).json()
    assert {name for name in ("exact", "large") if walk["settings"][name]} == ticked


def test_a_remix_without_scripts_starts_from_the_settings_of_its_source(
    api: TestClient, insert_walk: Callable[..., Walk]
) -> None:
    walk = insert_walk("a fox", "a rose", "a boat")
    page = api.get(f"/?from={walk.id}").text
    assert re.findall(r'name="prompts" value="([^"]*)"', page) == ["a fox", "a rose", "a boat"]
    assert f'name="from_walk" value="{walk.id}"' in page
    assert re.search(r'name="seed" type="number" value="7"', page)


def test_the_frame_above_the_form_always_has_a_film_and_its_label(
    api: TestClient, insert_walk: Callable[..., Walk]
) -> None:
    walk = insert_walk("a fox", "a boat")

    def hung(page: str) -> tuple[str, ...]:
        video, label = re.findall(r"<video([^>]*)></video>\s*<p[^>]*>(.*?)</p>", page)[0]
        files = dict(re.findall(r'(src|poster)="([^"]*)"', video))
        return files["src"], files.get("poster", ""), re.sub("<(?!/?bdi)[^>]*>", "", label)

    def remixed_without(*kinds: ArtifactKind) -> tuple[str, ...]:
        with transaction() as session:
            session.execute(delete(Artifact).where(Artifact.kind.in_(kinds)))
        return hung(api.get(f"/?from={walk.id}").text)

    example = hung(api.get("/").text)
    assert example[0].startswith("/static/walks/")
    film, poster, label = remixed_without()
    assert film.endswith(f"walks/{walk.id}/walk.mp4")
    assert poster.endswith(f"walks/{walk.id}/walk.poster")
    assert label == "Remix of <bdi>a fox</bdi>\u00a0→ <bdi>a boat</bdi>"
    assert remixed_without(ArtifactKind.POSTER) == (film, "", label)
    assert remixed_without(ArtifactKind.MP4) == example
    assert hung(api.get("/?to=a+boat").text) == example
    assert hung(api.post("/walks", data={"prompts": ["a fox", "a boat"], "frames": "many"}).text) == example


def test_a_remix_without_scripts_keeps_lists_that_the_form_does_not_show(api: TestClient) -> None:
    order = {"prompts": ["a fox", "a boat"], "seeds": [7, 8], "negative_prompts": ["red", ""], "leg_frames": [3]}
    source = api.post("/v1/walks", json=order).json()["id"]
    shown = {"from_walk": source, "prompts": ["a fox", "a boat"], "frames": "4", "seed": "7", "fps": "9"}
    lists = ("seeds", "negative_prompts", "leg_frames")
    for changes, expected in (
        ({}, [[7, 8], ["red", ""], [3]]),
        ({"frames": "5"}, [[7, 8], ["red", ""], None]),
        ({"seed": "9"}, [None, ["red", ""], [3]]),
    ):
        made = api.post("/walks", data={**shown, **changes}, follow_redirects=False)
        found = api.get(made.headers["Location"].replace("/walks/", "/v1/walks/")).json()["settings"]
        assert [found[name] for name in lists] == expected
        assert found["fps"] == 9


def test_a_remix_without_scripts_of_a_walk_that_is_gone_says_so(api: TestClient) -> None:
    form = {"from_walk": "00000000-0000-4000-8000-000000000000", "prompts": ["a fox", "a boat"], "frames": "4"}
    answer = api.post("/walks", data=form)
    assert answer.status_code == 422
    assert "There is no walk 00000000-0000-4000-8000-000000000000" in answer.text


def modules(name: str) -> set[str]:
    """Return the names of all modules that a module loads, directly or not."""
    script = (FRONTEND / "static" / name).read_text()
    own = set(re.findall(r'^import (?:[^"]* from )?"\./([^"]+)";', script, re.MULTILINE))
    return own.union(*map(modules, own))


@pytest.mark.parametrize("path", [*SCRIPTED, "/walks/none", "/walks/hung"])
def test_no_request_of_a_page_waits_for_another(
    api: TestClient, insert_walk: Callable[..., Walk], path: str
) -> None:
    """Scripts, styles and fonts of the first view are all named by the page itself, and nothing else is."""
    page = api.get(path.replace("hung", str(insert_walk("a fox", "a boat").id)), headers=BROWSER).text
    (entry,) = re.findall(r'<script type="module" src="/static/([^"]+)"', page)
    assert sorted(re.findall(r'<link rel="modulepreload" href="/static/([^"]+)"', page)) == sorted(modules(entry))
    styles = re.findall(r'<link rel="stylesheet" href="/static/([^"]+)"', page)
    assert not [name for name in styles if "@import" in (FRONTEND / "static" / name).read_text()]
    fonts = re.findall(r'<link rel="preload" href="/static/fonts/([^"]+)" as="font"', page)
    assert "eb-garamond-latin-wght-italic.woff2" in fonts


def test_static_files_are_compressed_and_revalidated(api: TestClient) -> None:
    style = api.get("/static/base.css")
    assert style.headers["Content-Encoding"] == "gzip"
    assert style.headers["Cache-Control"] == "no-cache"
    again = api.get("/static/base.css", headers={"If-None-Match": style.headers["ETag"]})
    assert again.status_code == 304
    font = api.get("/static/fonts/eb-garamond-latin-wght-italic.woff2")
    assert "max-age=31536000" in font.headers["Cache-Control"]
    assert "Content-Encoding" not in font.headers


def test_the_walk_of_every_pair_is_shipped_and_is_light(api: TestClient) -> None:
    for name in (pair["name"] for pair in templates.pairs()):
        video = api.get(f"/static/walks/{name}.mp4", headers={"Range": "bytes=4-7"})
        assert (video.status_code, video.content) == (206, b"ftyp")  # browsers ask for ranges of a video
        assert int(video.headers["Content-Range"].rpartition("/")[2]) < 80_000
        assert len(api.get(f"/static/walks/{name}.webp").content) < 4_000


def models(api: TestClient) -> list[dict[str, Any]]:
    """Return what the form knows of the models."""
    found = re.search(r'<script type="application/json" id="models">(.*?)</script>', api.get("/").text)
    assert found
    listed: list[dict[str, Any]] = json.loads(found[1])
    return listed


def test_the_pace_shown_by_the_form_excludes_waiting_times(api: TestClient, spec: Spec) -> None:
    assert models(api)[0]["pace"] is None
    with transaction() as session:
        walk = service.create(session, spec(frames=8), public=True, owner="key:a")
    with transaction() as session:
        claim = leases.claim(session, ChunkKind.RENDER, "worker:1", "worker")
        assert claim
        results.record_frames(session, claim, made_frames(claim))
    busy = {"finished_at": func.now(), "created_at": func.now() - timedelta(minutes=30)}
    with transaction() as session:
        times = {**busy, "claimed_at": func.now() - timedelta(seconds=2)}
        session.execute(
            update(Chunk).where(Chunk.walk_id == walk.id, Chunk.status == ChunkStatus.DONE).values(times)
        )
        session.execute(update(Walk).values(started_at=func.now() - timedelta(minutes=30)))
    pace = models(api)[0]["pace"]
    assert pace["speed"] == pytest.approx(len(claim.frames) * 3 * 128 * 128 / 2, rel=0.05)
    assert (pace["workers"], pace["batch"], pace["dense"]) == (1, 8, None)
    with transaction() as session:
        catalog.report(session, description.of_settings().model_copy(update={"dense": True}))
    assert models(api)[0]["pace"]["dense"] == {"from": 64, "denoised": 48}
    with transaction() as session:
        session.execute(update(Chunk).values(model="another"))  # of another walk
    assert models(api)[0]["pace"] is None
