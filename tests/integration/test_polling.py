"""Cheap polling of a walk: entity tags, long polls and streams."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, text, update

from api.live import listener, long_polling
from momalisa import api_keys
from momalisa.db import notifications
from momalisa.db.models import Chunk, Walk
from momalisa.db.session import engine, transaction
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.queue import celery_app, leases, results
from momalisa.walks.queries import Snapshot
from tests.claims import made_frames, render_a_chunk
from tests.conftest import until

POLLS = 200


@pytest.fixture
def make(api: TestClient) -> Callable[..., dict[str, Any]]:
    def make_walk(**changes: Any) -> dict[str, Any]:
        order = {"prompts": ["a giraffe", "a battleship"], "frames": 16, **changes}
        walk: dict[str, Any] = api.post("/v1/walks", json=order).json()
        return walk

    return make_walk


def end(status: WalkStatus) -> None:
    with transaction() as session:
        walks = session.scalars(select(Walk.id)).all()
        session.execute(update(Walk).values(status=status, **notifications.changed(session, *walks)))


@contextmanager
def queries() -> Iterator[list[str]]:
    """Collect the SELECTs sent during the block, without late notifications of earlier changes."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and not re.search("pg_catalog|pg_notify", statement):
            sent.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", note)


@pytest.mark.parametrize("has_key", [False, True], ids=["a visitor", "a program with a key"])
def test_polls_cost_one_query_each_and_no_body(
    api: TestClient, make: Callable[..., dict[str, Any]], has_key: bool
) -> None:
    if has_key:
        with transaction() as session:
            api.headers["Authorization"] = f"Bearer {api_keys.create(session, 'a program')[1]}"
    url = f"/v1/walks/{make(public=False)['id']}"
    render_a_chunk()
    etag = api.get(url).headers["etag"]
    with queries() as sent:
        answers = [api.get(url, headers={"If-None-Match": etag}) for _ in range(POLLS)]
    assert {(answer.status_code, answer.content) for answer in answers} == {(304, b"")}
    assert len(sent) == POLLS


@pytest.mark.parametrize("given", ['W/"3"', '"3"', 'W/"1", W/"3"', "*"])
def test_tags_are_compared_weakly_and_in_lists(given: str) -> None:
    assert long_polling.matches(given, Snapshot(3, WalkStatus.RUNNING, 0))


@pytest.mark.parametrize("given", [None, "", 'W/"2"', "3", 'W/"33"'])
def test_other_tags_do_not_match(given: str | None) -> None:
    assert not long_polling.matches(given, Snapshot(3, WalkStatus.RUNNING, 0))


def test_the_tag_of_a_queued_walk_changes_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = Snapshot(1, WalkStatus.QUEUED, 0)
    monkeypatch.setattr("api.live.long_polling.time.time", lambda: 1000.0)
    now = long_polling.etag(queued)
    monkeypatch.setattr("api.live.long_polling.time.time", lambda: 1000.0 + long_polling.QUEUE_SECONDS)
    assert long_polling.etag(queued) != now


@pytest.mark.parametrize(
    ("status", "age", "pause"),
    [
        (WalkStatus.QUEUED, 1, 1),
        (WalkStatus.QUEUED, 30, 5),
        (WalkStatus.QUEUED, 300, 10),
        (WalkStatus.RUNNING, 300, 1),
    ],
)
def test_a_client_is_asked_to_wait_longer_in_a_long_queue(status: WalkStatus, age: float, pause: int) -> None:
    assert long_polling.retry_after(Snapshot(1, status, age)) == pause


def test_a_long_poll_is_answered_when_something_changes(
    api: TestClient, make: Callable[..., dict[str, Any]]
) -> None:
    url = f"/v1/walks/{make(frames=8, pacing='linear')['id']}"
    with transaction() as session:
        claim = leases.claim(session, ChunkKind.RENDER, "here")
    assert claim
    etag = api.get(url).headers["etag"]
    looked = threading.Event()

    def render_once_a_client_waits() -> None:
        assert looked.wait(10)
        with transaction() as session:
            stored = made_frames(claim)
            results.record_frames(session, claim, stored)

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "walks.revision" in statement:
            looked.set()

    renderer = threading.Thread(target=render_once_a_client_waits)
    event.listen(engine(), "after_cursor_execute", note)
    renderer.start()
    answer = api.get(url, headers={"Prefer": "respond-async, wait=30", "If-None-Match": etag})
    renderer.join()
    event.remove(engine(), "after_cursor_execute", note)
    assert (answer.status_code, answer.json()["status"]) == (200, "assembling")
    assert answer.headers["preference-applied"] == "wait=30"


def listeners() -> set[int]:
    """Return the PostgreSQL backends on which an API listens."""
    with transaction() as session:
        return set(session.scalars(text("SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN walks'")))


def test_long_polls_are_answered_by_notifications(
    api: TestClient, make: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_polling, "MAX_WAIT_SECONDS", 120)
    monkeypatch.setattr(listener, "LISTENING_POLL_SECONDS", 120)
    monkeypatch.setattr(listener, "FALLBACK_POLL_SECONDS", 120)
    walk = UUID(make()["id"])
    url = f"/v1/walks/{walk}"

    def answered() -> int:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(api.get, url, headers={"Prefer": "wait=120"})

            def change() -> bool:
                with transaction() as session:
                    session.execute(update(Walk).values(notifications.changed(session, walk)))
                return answer.done()

            until(change)  # repeatedly, since the first may come before the API listens or queries
        return answer.result().status_code

    assert answered() == 200
    broken = listeners()
    with transaction() as session:
        for pid in broken:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    until(lambda: not broken & listeners())
    assert answered() == 200
    assert not listener.events


def test_a_long_poll_holds_no_database_connection(api: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    url = f"/v1/walks/{make()['id']}"
    render_a_chunk()
    etag = api.get(url).headers["etag"]
    with queries() as sent, ThreadPoolExecutor(1) as pool:
        held = pool.submit(api.get, url, headers={"Prefer": "wait=3", "If-None-Match": etag})
        until(lambda: any("walks.revision" in query for query in sent))
        until(lambda: not engine().pool.checkedout() or held.done())  # type: ignore[attr-defined]
        assert not held.done()
    answer = held.result()
    assert (answer.status_code, answer.headers["preference-applied"]) == (304, "wait=3")


def test_a_finished_walk_is_returned_at_once(api: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    walk = make()
    end(WalkStatus.FAILED)
    until(listener.is_listening)  # to begin to listen is a reason to look
    with queries() as sent:
        assert api.get(f"/v1/walks/{walk['id']}", headers={"Prefer": "wait=30"}).json()["done"]
    assert sum("walks.revision" in query for query in sent) <= 3  # one more if the end is noticed only now


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], 0),
        ([""], 0),
        (["wait=7"], 7),
        (["WAIT = 100"], 30),
        (['wait="7"'], 7),
        (["wait=7;x=y"], 7),
        (["respond-async", "wait=7"], 7),
        (["wait=7, wait=9"], 7),
        (["wait"], 0),
        (["wait="], 0),
        (["wait=x"], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
    ],
)
def test_prefer_is_parsed_as_the_rfc_says(prefer: list[str], seconds: int) -> None:
    assert long_polling.parse_prefer(prefer) == seconds


def test_a_second_prefer_header_is_applied(api: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    lines = [("Prefer", "handling=lenient"), ("Prefer", "wait=1")]
    answer = api.get(f"/v1/walks/{make()['id']}", headers=lines)
    assert answer.headers["preference-applied"] == "wait=1"


def test_a_submission_can_wait_for_the_walk(api: TestClient) -> None:
    """No worker runs here: the walk is canceled in the meantime."""
    prompts = {"prompts": ["a giraffe", "a battleship"]}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(api.post, "/v1/walks", json=prompts, headers={"Prefer": "wait=30"})
        until(lambda: api.get("/v1/walks?status=queued").json()["walks"])
        made = api.get("/v1/walks?status=queued").json()["walks"][0]
        until(lambda: celery_app.count_messages(ChunkKind.RENDER))  # workers get their message before the response
        end(WalkStatus.CANCELED)
        done = answer.result(20)
    assert (done.status_code, done.headers["preference-applied"]) == (202, "wait=30")
    assert (done.json()["id"], done.json()["status"]) == (made["id"], "canceled")
    assert "retry-after" not in done.headers
    at_once = api.post("/v1/walks", json=prompts, headers={"Prefer": "wait=1"})
    assert (at_once.status_code, at_once.json()["status"], at_once.headers["retry-after"]) == (202, "queued", "1")


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the id and the data of each server-sent event."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields.get("event") == "walk":
            found.append((fields["id"], json.loads(fields["data"])))
    return found


def test_a_stream_follows_a_walk_to_its_end(api: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    walk = make()
    end(WalkStatus.CANCELED)
    answer = api.get(f"/v1/walks/{walk['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    [(number, sent)] = events(answer.text)
    assert (number, sent["status"], sent["id"]) == ("2", "canceled", walk["id"])
    again = api.get(f"/v1/walks/{walk['id']}/events", headers={"Last-Event-ID": number})
    assert events(again.text) == []


def test_a_stream_of_an_unknown_walk_is_a_problem(api: TestClient) -> None:
    answer = api.get(f"/v1/walks/{uuid4()}/events")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/walk-not-found")


def test_a_walk_has_a_queue_position(api: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    first, second = make(frames=8), make(frames=24)
    places = [api.get(f"/v1/walks/{walk['id']}").json()["progress"]["queue_position"] for walk in (first, second)]
    assert places == [0, 1]
    render_a_chunk()
    assert api.get(f"/v1/walks/{first['id']}").json()["progress"]["queue_position"] is None
    assert api.get(f"/v1/walks/{second['id']}").json()["progress"]["queue_position"] == 0


def test_the_estimate_is_based_on_recent_chunks(api: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    walk = make(frames=40)
    url = f"/v1/walks/{walk['id']}"
    assert api.get(url).json()["progress"]["eta_seconds"] is None
    render_a_chunk()
    with transaction() as session:
        session.execute(
            update(Chunk).where(Chunk.number == 0).values(claimed_at=Chunk.finished_at - timedelta(seconds=10))
        )
    progress = api.get(url).json()["progress"]
    assert progress["eta_seconds"] == 40  # four chunks of ten seconds each
    assert progress["started_at"] is not None
    heavy = make(frames=8, steps=40)
    assert api.get(f"/v1/walks/{heavy['id']}").json()["progress"]["eta_seconds"] >= 20
