"""Limits of callers, with real PostgreSQL and Valkey."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.types import Message

from api import limits
from api.middleware import body_limit, security_headers
from api.problems import handlers
from api.schemas.requests import MAX_PROMPT
from momalisa import description
from momalisa.domain.spec import MAX_FRAMES, MAX_STOPS
from momalisa.queue import celery_app
from momalisa.settings import settings
from tests.clients import ORDER, new_client, new_key, submit
from tests.integration.conftest import Limit, assert_refused


def test_requests_are_counted_for_each_key_and_for_each_address(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=3)
    one, other = new_client(api, new_key()), new_client(api, new_key())
    left = [one.get("/v1/walks").headers for _ in range(3)]
    assert [headers["ratelimit"].split(";")[:2] for headers in left] == [
        ['"requests"', f"r={n}"] for n in (2, 1, 0)
    ]
    assert {headers["ratelimit-policy"] for headers in left} == {'"requests";q=3;w=60'}
    refused = one.get("/v1/walks")
    assert_refused(refused, "at most 3 requests")
    assert refused.headers["ratelimit"] == f'"requests";r=0;t={refused.headers["retry-after"]}'
    assert int(refused.headers["retry-after"]) <= 120
    for client in (other, api):
        assert client.get("/v1/walks").status_code == 200


def test_a_search_counts_as_several_requests(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=limits.SEARCH_COST + 1)
    one = new_client(api, new_key())
    for path, left in (("/v1/walks?q=fox", 1), ("/v1/walks?q=", 0)):
        assert one.get(path).headers["ratelimit"].startswith(f'"requests";r={left};')
    assert_refused(one.get("/gallery?q=fox"), "requests")
    limit(requests_per_minute=1)
    assert new_client(api, new_key()).get("/v1/walks?q=fox").status_code == 200


def test_invalid_keys_are_counted_by_address(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=3)
    guesses = [new_client(api, f"momalisa_{number:043}").get("/v1/walks").status_code for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 60_000], ids=["cut off", "no text", "deep"])
def test_invalid_json_counts_as_well(api: TestClient, limit: Limit, body: bytes) -> None:
    limit(requests_per_minute=2)
    headers = {"Content-Type": "application/json"}
    answers = [api.post("/v1/walks", content=body, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert_refused(answers[-1], "at most 2 requests")
    assert api.get("/v1/walks").status_code == 429


def test_an_invalid_request_counts_once(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=3)
    answers = [api.post("/v1/walks", json={"prompts": 1}).status_code for _ in range(4)]
    assert answers == [422, 422, 422, 429]


def test_a_request_over_the_limit_is_not_parsed(
    api: TestClient, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(requests_per_minute=2)
    parsed: list[Request] = []
    parse = Request.json

    async def parse_and_note(request: Request) -> Any:
        parsed.append(request)
        return await parse(request)

    monkeypatch.setattr(Request, "json", parse_and_note)
    walk = submit(api)
    for number, (method, path) in enumerate([("PATCH", f"/v1/walks/{walk}"), *2 * [("POST", "/v1/walks")]]):
        answer = api.request(method, path, content=b"{", headers={"Content-Type": "application/json"})
        assert answer.status_code == (429 if number else 400)
    assert len(parsed) == 2


@pytest.mark.parametrize("path", ["/v1/walks", "/walks"])
def test_another_media_type_counts_as_well(api: TestClient, limit: Limit, path: str) -> None:
    limit(requests_per_minute=2)
    assert [api.post(path, content="a=b").status_code for _ in range(3)] == [415, 415, 429]


def test_malformed_requests_of_a_key_count_for_the_key(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=1)
    headers = {"Content-Type": "application/json"}
    for client in (new_client(api, new_key()), new_client(api, new_key())):
        answers = [client.post("/v1/walks", content=b"{", headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [400, 429]


@pytest.mark.parametrize(
    "path", ["/v1/walks/7", "/v1/walks/7/events", "/v1/walks/7/frames/x", "/v1/walks?limit=x", "/gallery?mine=x"]
)
def test_an_invalid_url_counts_once(api: TestClient, limit: Limit, path: str) -> None:
    limit(requests_per_minute=2)
    assert [api.get(path).status_code for _ in range(3)] == [422, 422, 429]


def test_dropping_the_cookie_does_not_help(api: TestClient, limit: Limit) -> None:
    limit(submissions_per_minute=2)
    for _ in range(2):
        submit(new_client(api))
    refused = new_client(api).post("/v1/walks", json=ORDER)
    assert_refused(refused, "at most 2 submissions")
    assert refused.headers["ratelimit-policy"] == '"requests";q=600;w=60, "submissions";q=2;w=60'
    assert len(api.get("/v1/walks").json()["walks"]) == 2


def test_a_forged_forwarded_address_is_ignored(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=1)
    claims = [api.get("/v1/walks", headers={"X-Forwarded-For": f"198.51.100.{n}"}).status_code for n in (1, 2)]
    assert claims == [200, 429]


def test_behind_a_trusted_proxy_clients_are_counted_separately(api: TestClient, limit: Limit) -> None:
    limit(requests_per_minute=1, trusted_proxies="10.0.0.0/8")
    proxy = TestClient(api.app, client=("10.0.0.1", 4711))
    answers = [
        proxy.get("/v1/walks", headers={"X-Forwarded-For": claimed}).status_code
        for claimed in ("198.51.100.1", "198.51.100.2", "1.2.3.4, 198.51.100.1")
    ]
    assert answers == [200, 200, 429]


def test_the_number_of_waiting_walks_is_limited(api: TestClient, limit: Limit) -> None:
    limit(max_waiting_walks=2)
    walks = [submit(api) for _ in range(2)]
    assert_refused(api.post("/v1/walks", json=ORDER), "2 of your walks are waiting")
    submit(new_client(api, new_key()))
    api.post(f"/v1/walks/{walks[0]}/cancel")
    submit(api)


def test_concurrent_submissions_cannot_exceed_the_limit_of_waiting_walks(api: TestClient, limit: Limit) -> None:
    limit(max_waiting_walks=2)
    client = new_client(api, new_key())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/walks", json=ORDER).status_code, range(8)))
    assert sorted(answers) == [202] * 2 + [429] * 6


def test_a_day_has_a_budget_of_pixels_and_steps(api: TestClient, limit: Limit) -> None:
    work = 16 * 128 * 128 * description.of_settings().steps
    limit(pixel_steps_per_day=2 * work)
    first = api.post("/v1/walks", json=ORDER)
    assert f'"pixel-steps";r={work};t=' in first.headers["ratelimit"]
    refused = api.post("/v1/walks", json={**ORDER, "frames": 17})
    assert_refused(refused, "pixel-steps")
    assert f'"pixel-steps";r={work};t=' in refused.headers["ratelimit"]
    submit(api)
    assert_refused(api.post("/v1/walks", json={**ORDER, "frames": 2, "steps": 1}), "pixel-steps")


def test_pins_count_as_the_pictures_that_are_rendered(api: TestClient, limit: Limit) -> None:
    work = 2 * 64 * 128 * 128  # since the batches are padded
    limit(pixel_steps_per_day=work + 7, batch_size=64)
    pinned = {"batches": [{"size": 64, "positions": [0]}, {"size": 64, "positions": [1]}]}
    order = {**ORDER, "frames": 2, "steps": 1, "width": 128, "height": 128, "pinned": pinned}
    assert '"pixel-steps";r=7;t=' in api.post("/v1/walks", json=order).headers["ratelimit"]
    limit(pixel_steps_per_day=work - 1, batch_size=64)
    refused = api.post("/v1/walks", json=order)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "pinned")


def test_shown_frames_have_a_budget_besides_rendered_ones(api: TestClient, limit: Limit) -> None:
    size = {"frames": 4, "steps": 1, "width": 128, "height": 128}
    limit(output_pixels_per_day=30 * 128 * 128)
    held = api.post("/v1/walks", json={**ORDER, **size, "hold": 10})  # 24 frames
    assert f'"output-pixels";r={6 * 128 * 128};t=' in held.headers["ratelimit"]
    assert_refused(api.post("/v1/walks", json={**ORDER, **size, "loop": "pingpong", "hold": 1}), "output-pixels")
    assert api.post("/v1/walks", json={**ORDER, **size, "loop": "pingpong"}).status_code == 202
    alone = api.post("/v1/walks", json={**ORDER, **size, "hold": 20})
    assert (alone.status_code, alone.json()["errors"][0]["field"]) == (422, "frames")


def test_large_files_of_every_variation_count_as_shown_pixels(api: TestClient, limit: Limit) -> None:
    order = {"prompts": ["a", "b"], "frames": 2, "steps": 1, "width": 128, "height": 128, "large": True}
    shown = 3 * 2 * (128 * 128 + 1080 * 1080)
    limit(output_pixels_per_day=shown + 7)
    answer = api.post("/v1/walks", json={**order, "variations": 3})
    assert '"output-pixels";r=7;t=' in answer.headers["ratelimit"]


def test_a_walk_that_exceeds_a_daily_budget_is_refused_for_good(api: TestClient, limit: Limit) -> None:
    limit(pixel_steps_per_day=1000)
    answer = api.post("/v1/walks", json=ORDER)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "frames")
    assert "at most 1000 per day" in answer.json()["detail"]


def test_while_redis_is_down_only_rates_are_not_limited(
    api: TestClient, limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    limit(
        requests_per_minute=1,
        submissions_per_minute=1,
        output_pixels_per_day=3 * 16 * 128 * 128,
        broker_url="redis://127.0.0.1:1/0",
    )
    celery_app.app.cache_clear()
    for _ in range(3):
        answer = api.post("/v1/walks", json=ORDER)
        assert answer.status_code == 202
        assert answer.headers["ratelimit"].startswith('"pixel-steps"')
    assert_refused(api.post("/v1/walks", json=ORDER), "output-pixels")
    assert sum("limits are not counted" in record.getMessage() for record in caplog.records) == 1


def test_limits_can_be_switched_off(api: TestClient, limit: Limit) -> None:
    limit(rate_limits="off", requests_per_minute=1, submissions_per_minute=1, max_waiting_walks=1)
    for _ in range(3):
        assert "ratelimit" not in api.post("/v1/walks", json=ORDER).headers


def chunks_of(size: int) -> Iterator[bytes]:
    yield from (b" " * 1024 for _ in range(size // 1024))


@pytest.mark.parametrize(
    "body",
    [b" " * (body_limit.MAX_BYTES + 1), lambda: chunks_of(body_limit.MAX_BYTES + 1024)],
    ids=["whole", "chunked"],
)
@pytest.mark.parametrize("path", ["/v1/walks", "/v1/walks/0/cancel", "/nowhere"])
def test_a_body_that_is_too_large_is_refused(
    api: TestClient, body: bytes | Callable[[], Iterator[bytes]], path: str
) -> None:
    answer = api.post(path, content=body() if callable(body) else body)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_slow_body_is_refused(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "MAX_SECONDS", 0)

    async def slow_client() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.Event().wait()  # never a byte
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/walks", "headers": []}
        limited = body_limit.BodyLimit(cast("FastAPI", api.app))
        await handlers.RefusedRequests(limited)(scope, receive, send)
        return sent

    start, content = asyncio.run(slow_client())
    assert (start["status"], json.loads(content["body"])["type"]) == (408, "/problems/too-slow")


def test_a_body_of_512_kib_is_accepted_in_one_piece_or_chunked(api: TestClient) -> None:
    order = b'{"prompts": ["a", "b"], "frames": 2}'
    for content in (order + b" " * (512 * 1024 - len(order)), iter([order[:9], order[9:]])):
        assert (
            api.post("/v1/walks", content=content, headers={"Content-Type": "application/json"}).status_code == 202
        )


@pytest.mark.parametrize("character", ["戦", "🦒"])
def test_the_longest_prompts_fit_in_a_body_however_they_are_escaped(api: TestClient, character: str) -> None:
    longest = [f"{stop}{character * (MAX_PROMPT - 1)}" for stop in range(MAX_STOPS)]
    order = {"prompts": longest, "negative_prompts": longest, "frames": MAX_FRAMES}
    escaped = json.dumps(order, ensure_ascii=True).encode()
    answer = api.post("/v1/walks", content=escaped, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["prompts"] == longest
    submitted = api.post("/walks", data={"prompts": longest}, follow_redirects=False)
    assert submitted.status_code == 303, submitted.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/walks"),
        ("GET", "/v1/walks/0"),
        ("GET", "/nowhere"),
        ("DELETE", "/v1/walks"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/static/app.js"),
        ("POST", "/v1/walks"),
    ],
)
def test_every_response_has_a_strict_policy(
    api: TestClient, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("momalisa.walks.service.create", lambda *_, **__: 1 / 0)  # so that the POST gets a 500
    answer = api.request(method, path, json=ORDER if method == "POST" else None)
    assert answer.status_code == 500 if method == "POST" else answer.status_code < 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] in {"no-referrer", "same-origin"}
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    assert "server" not in answer.headers


def test_responses_that_depend_on_the_caller_are_not_cached_publicly(api: TestClient) -> None:
    headers = api.get("/v1/walks").headers
    assert (headers["cache-control"], headers["vary"]) == ("private, no-cache", "Authorization, Cookie")


def test_pages_of_cors_origins_may_call_the_api(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"Origin": "https://museum.example"}
    assert "access-control-allow-origin" not in api.get("/v1/walks", headers=here).headers
    monkeypatch.setenv("CORS_ORIGINS", "https://museum.example, https://gallery.example")
    settings.cache_clear()
    app = FastAPI()
    app.add_middleware(handlers.UnexpectedErrors)
    security_headers.install(app)

    @app.get("/v1/unforeseen")
    def unforeseen() -> None:
        raise ZeroDivisionError

    client = TestClient(app, raise_server_exceptions=False)
    answer = client.get("/v1/nothing", headers=here)
    assert answer.headers["access-control-allow-origin"] == here["Origin"]
    assert {"Authorization", "Cookie", "Origin"} <= set(answer.headers["vary"].split(", "))
    assert "Preference-Applied" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-origin" not in client.get("/", headers={"Origin": "https://x.example"}).headers
    failed = client.get("/v1/unforeseen", headers=here)
    assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (500, here["Origin"])
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Last-Event-ID"}
    assert client.options("/v1/walks", headers={**here, **asked}).status_code == 200
