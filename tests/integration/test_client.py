"""The Python client with the whole system."""

import asyncio
import json
import zipfile
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from momalisa.client import ApiError, AsyncClient, Client
from momalisa.local.stack import LocalStack

ORDER = {"frames": 10, "steps": 2, "seed": 7}


def test_a_walk_is_watched_to_its_end_and_saved(client: Client, tmp_path: Path) -> None:
    seen = list(client.walk(["a cat", "a castle"], **ORDER))
    assert seen[-1]["status"] == "succeeded"
    counts = [walk["progress"]["frames_done"] for walk in seen]
    assert counts == sorted(counts)
    for kind in ("gif", "mp4", "webp", "poster", "card", "sheet", "zip"):
        artifact = client.save(seen[-1], kind, tmp_path / kind)
        assert (tmp_path / kind).stat().st_size == artifact["bytes"]
    with zipfile.ZipFile(tmp_path / "zip") as archive:
        assert archive.namelist() == ["walk.json", *(f"{index:03}.png" for index in range(10))]
        again = client.submit(**json.loads(archive.read("walk.json")))
    assert (again["prompts"], again["settings"]) == (seen[-1]["prompts"], seen[-1]["settings"])
    assert client.cancel(again["id"])["status"] == "canceled"


def test_the_asynchronous_client_does_the_same(system: LocalStack, tmp_path: Path) -> None:
    async def walk() -> str:
        async with AsyncClient(system.url) as client:
            async for seen in client.walk(["a cat", "a castle"], **ORDER):
                last = seen
            assert len(await client.download(last["artifacts"]["gif"]["url"])) == last["artifacts"]["gif"]["bytes"]
            assert (await client.get(last["id"]))["done"]
            assert (await client.save(last, "gif", tmp_path / "gif"))["bytes"] == (tmp_path / "gif").stat().st_size
            assert last["id"] in [walk["id"] for walk in (await client.page(status="succeeded"))["walks"]]
            with pytest.raises(ApiError) as refused:
                await client.cancel(last["id"])
            assert refused.value.problem == "walk-ended"
        return last["status"]

    assert asyncio.run(walk()) == "succeeded"


def test_a_walk_can_be_canceled_and_found_in_the_gallery(client: Client) -> None:
    walk = client.submit(["a fox", "a boat"], frames=240, steps=50)
    assert client.cancel(walk["id"])["status"] == "canceled"
    page = client.page(limit=1, status="canceled")
    assert page["walks"][0]["id"] == walk["id"]


def test_an_api_error_has_the_problem_and_its_fields(client: Client) -> None:
    with pytest.raises(ApiError, match="frames: at most 960, got 1000") as refused:
        client.submit(["a cat", "a castle"], frames=1000)
    assert (refused.value.problem, refused.value.retry_after) == ("invalid-request", None)
    assert refused.value.errors == [{"field": "frames", "message": "at most 960, got 1000"}]
    with pytest.raises(ApiError) as missing:
        client.get("00000000-0000-4000-8000-000000000000")
    assert missing.value.problem == "walk-not-found"


def answers(*statuses: int) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that answers with these statuses in order, 0 for a broken connection; and its requests."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status = statuses[len(asked) - 1]
        if not status:
            raise httpx.ReadError("broken", request=request)
        return httpx.Response(status, json={"id": "7", "done": True, "detail": "no"}, headers={"Retry-After": "0"})

    return httpx.MockTransport(answer), asked


def with_answers(transport: httpx.MockTransport, **options: float) -> Client:
    client = Client("http://server", **options)  # type: ignore[arg-type]
    client._http = httpx.Client(base_url="http://server", transport=transport)
    return client


def test_the_key_is_sent_to_its_server_only() -> None:
    """The files are in a bucket on another host, to which the API may redirect."""
    shown: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append((request.url.host, request.headers.get("authorization")))
        if request.url.path == "/v1/walks/7/frames/0":
            return httpx.Response(307, headers={"Location": "https://bucket.example/frame.png"})
        return httpx.Response(200, json={"id": "7", "done": True})

    client = Client("https://walks.example", "momalisa_secret")
    client._http._mounts = {}
    client._http._transport = httpx.MockTransport(answer)
    client.get("7")
    client.download("https://bucket.example/walk.gif")
    client.download("https://walks.example:8443/walk.gif")
    client.download("/v1/walks/7/frames/0")
    assert shown == [
        ("walks.example", "Bearer momalisa_secret"),
        ("bucket.example", None),
        ("walks.example", None),
        ("walks.example", "Bearer momalisa_secret"),
        ("bucket.example", None),
    ]


def test_a_retried_submission_has_the_same_idempotency_key() -> None:
    transport, asked = answers(202, 0, 503, 429, 202)
    client = with_answers(transport)
    client.submit(["a", "b"])
    assert client.submit(["a", "b"])["id"] == "7"
    keys = [request.headers["idempotency-key"] for request in asked]
    assert (len(asked), len(set(keys))) == (5, 2)
    assert len(set(keys[1:])) == 1


def test_a_server_that_never_answered_is_not_retried() -> None:
    transport, asked = answers(0, 0)
    with pytest.raises(ApiError, match="cannot be reached"):
        with_answers(transport).get("7")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7), ("", 2), ("soon", 2), ("a date", 3600)],
)
def test_retry_after_may_be_seconds_or_a_date(retry_after: str, seconds: float) -> None:
    if retry_after == "a date":
        retry_after = format_datetime(datetime.now(UTC) + timedelta(hours=1))

    def busy(request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, json={"detail": "no"}, headers={"Retry-After": retry_after})

    with pytest.raises(ApiError) as refused:
        with_answers(httpx.MockTransport(busy), retry_seconds=0).get("7")
    assert refused.value.retry_after == pytest.approx(seconds, abs=600 if seconds > 600 else 0)


def test_retries_end_after_a_while() -> None:
    transport, asked = answers(200, 0, 0)
    client = with_answers(transport, retry_seconds=0)
    client.get("7")
    with pytest.raises(ApiError, match="cannot be reached"):
        client.get("7")
    assert len(asked) == 2
