"""The REST API with real PostgreSQL and without workers."""

import re
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.problems import catalog
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.queue import celery_app
from momalisa.settings import settings
from tests.claims import render_a_chunk
from tests.clients import accepted
from tests.conftest import clear_caches

ORDER = {"prompts": ["a giraffe", "a battleship"], "frames": 16, "seed": 7, "pacing": "linear"}


def make(api: TestClient, **changes: Any) -> dict[str, Any]:
    return accepted(api, {**ORDER, **changes})


def test_a_walk_is_accepted_at_once_and_returned_completely(api: TestClient) -> None:
    answer = api.post("/v1/walks", json=ORDER)
    walk = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == walk["urls"]["self"] == f"http://testserver/v1/walks/{walk['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert walk["urls"]["web"] == f"http://testserver/walks/{walk['id']}"
    assert (walk["status"], walk["done"], walk["prompts"]) == ("queued", False, ORDER["prompts"])
    assert walk["settings"] == {
        "weights": None,
        "pacing": "linear",
        "easing": "linear",
        "hold": 0,
        "exact": False,
        "loop": "none",
        "interpolation": "lerp",
        "seed": 7,
        "seed_to": None,
        "seeds": None,
        "leg_frames": None,
        "negative_prompt": "",
        "negative_prompts": None,
        "steps": 8,
        "guidance": 2.0,
        "scheduler": None,
        "width": 128,
        "height": 128,
        "fps": 12,
        "large": False,
    }
    assert (walk["frames_total"], walk["model"], walk["public"]) == (16, "momalisa-mini", True)
    waiting_for = "No worker with the model momalisa-mini is running; the walk is waiting for one."
    prospect = {"queue_position": 0, "eta_seconds": None, "waiting_for": waiting_for, "started_at": None}
    assert walk["progress"] == {"frames_done": 0, "frames_total": 16, **prospect}
    assert [frame["index"] for frame in walk["frames"]] == list(range(16))
    assert [frame["position"] for frame in walk["frames"]] == pytest.approx([index / 15 for index in range(16)])
    assert {frame["url"] for frame in walk["frames"]} == {None}
    assert (walk["sequence"], walk["from_walk"]) == (list(range(16)), None)
    assert (walk["artifacts"], walk["error"], walk["warnings"]) == ({}, None, [])
    assert (walk["started_at"], walk["finished_at"]) == (None, None)
    assert walk.pop("variations") == []
    assert api.get(f"/v1/walks/{walk['id']}").json() == walk
    assert celery_app.count_messages(ChunkKind.RENDER) == 2


def test_every_option_is_kept(api: TestClient) -> None:
    options = {
        "weights": [1, 2.5],
        "pacing": "even",
        "easing": "ease-in-out",
        "hold": 3,
        "exact": True,
        "loop": "closed",
        "interpolation": "slerp",
        "seed_to": 9,
        "scheduler": "euler",
        "negative_prompt": "red",
        "steps": 5,
        "guidance": 0,
        "width": 64,
        "height": 256,
        "fps": 60,
        "large": True,
        "seed": 0,
    }
    walk = make(api, **options, public=False)
    assert walk["settings"] == options | dict.fromkeys(("seeds", "negative_prompts", "leg_frames"))
    assert walk["public"] is False


def test_without_a_seed_a_random_one_is_used_and_returned(api: TestClient) -> None:
    seeds = {make(api, seed=None)["settings"]["seed"] for _ in range(5)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_white_space_in_prompts_is_folded_into_spaces(api: TestClient) -> None:
    walk = make(api, prompts=["  a\r\n\tcat ", "b" * 2000 + "   "], negative_prompt="\u3000rain,\u2028 \nfog\n")
    assert walk["prompts"] == ["a cat", "b" * 2000]
    assert walk["settings"]["negative_prompt"] == "rain, fog"


@pytest.mark.parametrize("prompts", [["モナ・リザ", "叫び"], ["قطة", "قلعة"], ["a 🦒", "b 👩‍🚀"], ["é", "é"]])
def test_prompts_may_be_in_any_language(api: TestClient, prompts: list[str]) -> None:
    assert make(api, prompts=prompts)["prompts"] == prompts


def test_frames_show_up_as_they_are_rendered(api: TestClient) -> None:
    walk = make(api)
    render_a_chunk()
    seen = api.get(f"/v1/walks/{walk['id']}").json()
    assert (seen["status"], seen["progress"]["frames_done"]) == ("running", 8)
    there = [frame["index"] for frame in seen["frames"] if frame["url"]]
    assert there == [0, 2, 4, 6, 9, 11, 13, 15]
    assert seen["frames"][0]["url"] == f"{settings().bucket_endpoint}/momalisa/w/0.0.png"


@pytest.mark.parametrize(
    ("bucket", "found_at", "loaded_from"),
    [
        ("/storage", "http://testserver/storage", "'self'"),
        ("https://files.example/", "https://files.example", "https://files.example"),
    ],
)
def test_browsers_get_urls_of_a_bucket_that_they_can_reach(
    bucket: str, found_at: str, loaded_from: str, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET_PUBLIC_URL", bucket)
    clear_caches()
    walk_id = make(api)["id"]
    render_a_chunk()
    url = f"{found_at}/momalisa/w/0.0.png"
    assert api.get(f"/v1/walks/{walk_id}").json()["frames"][0]["url"] == url
    assert api.get(f"/v1/walks/{walk_id}/frames/0", follow_redirects=False).headers["location"] == url
    sources = " ".join(dict.fromkeys(["'self'", loaded_from]))
    assert f"media-src {sources};" in api.get(f"/walks/{walk_id}").headers["content-security-policy"]


def test_an_unchanged_walk_is_not_sent_again(api: TestClient) -> None:
    url = f"/v1/walks/{make(api)['id']}"
    etag = api.get(url).headers["etag"]
    unchanged = api.get(url, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert unchanged.headers["retry-after"] == "1"
    render_a_chunk()
    assert api.get(url, headers={"If-None-Match": etag}).status_code == 200


def test_a_frame_is_found_by_its_number(api: TestClient) -> None:
    walk_id = make(api)["id"]
    render_a_chunk()
    found = api.get(f"/v1/walks/{walk_id}/frames/15", follow_redirects=False)
    assert (found.status_code, found.headers["location"]) == (
        307,
        f"{settings().bucket_endpoint}/momalisa/w/1.0.png",
    )
    for index, words in (
        (1, "not been rendered yet"),
        (16, "must be 0 to 15, got 16"),
        (-1, "must be 0 to 15, got -1"),
    ):
        missing = api.get(f"/v1/walks/{walk_id}/frames/{index}")
        assert (missing.status_code, missing.json()["type"]) == (404, "/problems/frame-not-found")
        assert words in missing.json()["detail"]


def test_a_failed_walk_says_why(api: TestClient) -> None:
    walk = make(api)
    with transaction() as session:
        session.execute(
            update(Walk).values(status=WalkStatus.FAILED, error_code="render_failed", error_message="It broke.")
        )
    seen = api.get(f"/v1/walks/{walk['id']}")
    assert (seen.json()["done"], seen.json()["error"]) == (True, {"code": "render_failed", "message": "It broke."})
    assert "retry-after" not in seen.headers


def test_a_walk_can_be_canceled_repeatedly_but_not_after_its_end(api: TestClient) -> None:
    walk = make(api)
    for _ in range(2):
        answer = api.post(f"/v1/walks/{walk['id']}/cancel")
        assert (answer.status_code, answer.json()["status"], answer.json()["done"]) == (200, "canceled", True)
    with transaction() as session:
        session.execute(update(Walk).values(status=WalkStatus.SUCCEEDED))
    late = api.post(f"/v1/walks/{walk['id']}/cancel")
    assert (late.status_code, late.json()["type"]) == (409, "/problems/walk-ended")
    assert "it is succeeded" in late.json()["detail"]
    assert api.post(f"/v1/walks/{uuid4()}/cancel").status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"prompts": []}, "prompts", "at least 2"),
        ({"prompts": ["a cat"]}, "prompts", "at least 2 are needed, got 1"),
        ({"prompts": ["a"] * 11}, "prompts", "at most 10"),
        ({"prompts": None}, "prompts", "is required"),
        ({"prompts": ["a", ""]}, "prompts[1]", "must not be empty"),
        ({"prompts": ["a", "  "]}, "prompts[1]", "must not be empty"),
        ({"prompts": ["a", " \n\t"]}, "prompts[1]", "must not be empty"),
        ({"prompts": ["a" * 2001, "b"]}, "prompts[0]", "at most 2000 characters, got 2001"),
        ({"prompts": ["a\x07b", "b"]}, "prompts[0]", "U+0007 at character 2"),
        ({"prompts": ["a", "b\x00"]}, "prompts[1]", "U+0000 at character 2"),
        ({"prompts": ["a\u202eb", "b"]}, "prompts[0]", "U+202E at character 2"),
        ({"prompts": ["a\ue000b", "b"]}, "prompts[0]", "U+E000 at character 2"),
        ({"prompts": ["a", 5]}, "prompts[1]", "must be a string"),
        ({"frames": 1}, "frames", "at least 2, got 1"),
        ({"frames": 961}, "frames", "at most 960, got 961"),
        ({"frames": "16"}, "frames", "must be a whole number"),
        ({"weights": [1, 2, 3]}, "weights", "must have one value per prompt: 2, got 3"),
        ({"seeds": [1]}, "seeds", "must have one value per prompt: 2, got 1"),
        ({"seed": None, "seeds": [1, 2**64]}, "seeds[1]", "at most 18446744073709551615"),
        ({"seeds": [1, 2]}, "seed", "must be left out beside seeds, or be the first of them, got 7"),
        ({"seeds": [7, 2], "seed_to": 3}, "seed_to", "must be left out beside seeds"),
        ({"negative_prompts": ["", "a" * 2001]}, "negative_prompts[1]", "at most 2000 characters, got 2001"),
        ({"negative_prompts": ["", ""], "negative_prompt": "red"}, "negative_prompt", "must be left out beside"),
        ({"leg_frames": [15, 15]}, "leg_frames", "must have one number per leg: 1, got 2"),
        ({"leg_frames": [15], "loop": "closed"}, "leg_frames", "must have one number per leg: 2, got 1"),
        ({"leg_frames": [0]}, "leg_frames[0]", "at least 1, got 0"),
        ({"leg_frames": [960], "frames": None}, "leg_frames", "at most 960 frames in all, got 961"),
        ({"leg_frames": [9]}, "frames", "must be left out beside leg_frames, or be 10, got 16"),
        ({"weights": [1, 0]}, "weights[1]", "at least 0.01, got 0"),
        ({"pacing": "uneven"}, "pacing", "must be 'even' or 'linear', got 'uneven'"),
        ({"loop": "round"}, "loop", "must be 'none', 'pingpong' or 'closed', got 'round'"),
        ({"hold": 101}, "hold", "at most 100, got 101"),
        ({"seed_to": -1}, "seed_to", "at least 0, got -1"),
        ({"from_walk": "mine"}, "from_walk", "must be an id such as"),
        ({"frames": 2, "prompts": ["a", "b", "c"]}, "frames", "must be at least the number of prompts: 3, got 2"),
        ({"seed": -1}, "seed", "at least 0, got -1"),
        ({"seed": 2**64}, "seed", "at most 18446744073709551615"),
        ({"seed": str(2**64)}, "seed", "at most 18446744073709551615"),
        ({"seed": "seven"}, "seed", "must be a whole number"),
        ({"width": 100}, "width", "multiple of 8, got 100"),
        ({"width": 512}, "width", "momalisa-mini renders at most 256 pixels, got 512"),
        ({"height": 8}, "height", "at least 64"),
        ({"steps": 0}, "steps", "at least 1"),
        ({"steps": 101}, "steps", "at most 100"),
        ({"guidance": 21}, "guidance", "at most 20"),
        ({"fps": 0}, "fps", "at least 1"),
        ({"fps": 61}, "fps", "at most 60"),
        ({"negative_prompt": "x" * 2001}, "negative_prompt", "at most 2000"),
        ({"public": "yes"}, "public", "true or false"),
        ({"colour": "red"}, "colour", "unknown field"),
    ],
)
def test_invalid_input_is_refused_with_its_field_and_limit(
    api: TestClient, changes: dict[str, Any], field: str, words: str
) -> None:
    answer = api.post("/v1/walks", json={**ORDER, **changes})
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (problem["status"], problem["type"]) == (422, "/problems/invalid-request")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert words in problem["errors"][0]["message"]
    assert field in problem["detail"]
    assert api.get("/v1/walks").json()["walks"] == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"prompts=a", b"\xff\xfe", b'{"prompts": ["\\ud800", "b"]}', b"[]", b"7"]
)
def test_a_body_that_is_not_an_object_is_a_problem(api: TestClient, body: bytes) -> None:
    answer = api.post("/v1/walks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_a_body_that_is_not_utf8_is_reported(api: TestClient) -> None:
    answer = api.post("/v1/walks", content=b'{"prompts": "\xff"}', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-json")
    assert "in UTF-8" in answer.json()["detail"]


def test_invalid_json_is_reported_with_its_position(api: TestClient) -> None:
    answer = api.post("/v1/walks", content=b'{"prompts": oops}', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-json")
    assert "character 12" in answer.json()["detail"]


def test_an_unknown_walk_differs_from_an_invalid_id(api: TestClient) -> None:
    unknown = uuid4()
    missing, malformed = api.get(f"/v1/walks/{unknown}"), api.get("/v1/walks/7")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/walk-not-found")
    assert str(unknown) in missing.json()["detail"]
    assert (malformed.status_code, malformed.json()["errors"][0]["field"]) == (422, "walk_id")
    assert "must be an id such as" in malformed.json()["errors"][0]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/v1/walks", 405)])
def test_other_errors_are_problem_documents(api: TestClient, method: str, path: str, status: int) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert path in answer.json()["detail"]
    assert answer.headers.get("allow") == ("GET, HEAD, OPTIONS, POST" if status == 405 else None)


def test_the_gallery_lists_public_walks_newest_first_page_by_page(api: TestClient) -> None:
    ids = [make(api, seed=seed)["id"] for seed in range(5)]
    make(api, public=False)
    first = api.get("/v1/walks?limit=2").json()
    made_meanwhile = make(api)["id"]
    second = api.get("/v1/walks", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = api.get("/v1/walks", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    linked = api.get("/v1/walks?limit=2&status=queued").links["next"]["url"]
    assert linked.startswith("http://testserver/v1/walks?limit=2&status=queued&cursor=")
    assert api.get(linked).status_code == 200
    pages = [[walk["id"] for walk in page["walks"]] for page in (first, second, third)]
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert third["next_cursor"] is None
    assert "frames" not in first["walks"][0]
    assert api.get("/v1/walks?limit=1").json()["walks"][0]["id"] == made_meanwhile


def test_a_cursor_that_was_tampered_with_is_refused(api: TestClient) -> None:
    for seed in range(2):
        make(api, seed=seed)
    cursor = api.get("/v1/walks?limit=1").json()["next_cursor"]
    assert api.get("/v1/walks", params={"cursor": cursor}).status_code == 200
    place, _, signature = cursor.rpartition(".")  # the place of a compressed cursor begins with a dot
    changed = place[:-1] + ("A" if place[-1] != "A" else "B")
    for forged in (f"{changed}.{signature}", place, f"{place}.{signature[::-1]}"):
        answer = api.get("/v1/walks", params={"cursor": forged})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cursor")


def test_the_gallery_can_be_filtered_by_status(api: TestClient) -> None:
    make(api)
    assert api.get("/v1/walks?status=succeeded").json()["walks"] == []
    assert len(api.get("/v1/walks?status=queued").json()["walks"]) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=WzEsMl0", "cursor"),
        ("cursor=%00", "cursor"),
        ("status=lost", "status"),
    ],
)
def test_invalid_page_parameters_are_refused_with_their_field(api: TestClient, query: str, field: str) -> None:
    answer = api.get(f"/v1/walks?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_walks_are_accepted_while_the_broker_is_down(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    celery_app.app.cache_clear()
    assert make(api)["status"] == "queued"


def test_while_the_database_is_down_clients_are_asked_to_retry(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://momalisa@127.0.0.1:1/none")
    clear_caches()
    for answer in (api.post("/v1/walks", json=ORDER), api.get("/v1/walks"), api.get("/readyz")):
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert api.get("/healthz").status_code == 200


def test_the_api_reports_that_it_is_healthy(api: TestClient) -> None:
    assert (api.get("/healthz").json(), api.get("/readyz").json()) == ({"status": "ok"}, {"status": "ok"})


def test_an_unexpected_error_reveals_no_secrets(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("momalisa.walks.service.create", lambda *_, **__: 1 / 0)
    answer = api.post("/v1/walks", json=ORDER)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "division" not in answer.text


def test_the_documentation_names_the_problems_of_every_operation(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    assert "/v1/walks/{walk_id}" in document["paths"]
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    page = api.get("/docs").text
    shown = set(re.findall(r' id="([^"]+)"', page))
    operations = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    assert operations | document["webhooks"].keys() | document["components"]["schemas"].keys() <= shown
    assert set(re.findall(r'href="#([^"]+)"', page)) <= shown
    assert set(re.findall(r'href="/problems/([^"]+)"', page)) <= catalog.by_slug().keys()
