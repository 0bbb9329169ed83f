"""Webhooks: which walks have one, what it says of their end, and how it is signed."""

import json
from collections.abc import Callable
from datetime import UTC, timedelta
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from standardwebhooks import WebhookVerificationError

from momalisa import api_keys
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind, DeliveryStatus, WalkStatus
from momalisa.local import stack
from momalisa.local.stack import LocalStack
from momalisa.queue import leases, lifecycle, results
from momalisa.queue.lifecycle import Ready
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.walks import queries, service
from tests import receiver
from tests.claims import made_frames
from tests.conftest import run_retention
from tests.deliveries import attempt, claim, delivery, make_due, recorded, verify
from tests.receiver import Receiver

MakeSpec = Callable[..., WalkSpec]
ORDER = {"prompts": ["a giraffe", "a battleship"], "frames": 4, "seed": 7}


def finish(walk_id: UUID) -> None:
    """Complete the only walk."""
    due: Ready | None = None
    while due is None or due.kind == ChunkKind.RENDER:
        with transaction() as session:
            claimed = leases.claim(session, ChunkKind.RENDER, "here")
            assert claimed
            due = results.record_frames(session, claimed, made_frames(claimed))
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.ASSEMBLE, "here")
        assert claimed
        assert claimed.walk_id == walk_id
        gif = results.UploadedArtifact(ArtifactKind.GIF, StoredObject("x", 1, "AAAAAA=="), 128, 128)
        results.complete_walk(session, claimed, [gif])


def fail(walk_id: UUID) -> None:
    with transaction() as session:
        lifecycle.end_walk(
            session, walk_id, WalkStatus.FAILED, error_code="render_failed", error_message="It broke."
        )


def cancel(walk_id: UUID) -> None:
    with transaction() as session:
        service.cancel(session, walk_id, owner=session.get_one(Walk, walk_id).owner)


def finished_at(walk_id: UUID) -> str:
    with transaction() as session:
        moment = queries.get(session, walk_id, viewer=None).finished_at
    assert moment
    return moment.astimezone(UTC).isoformat()


@pytest.mark.parametrize(
    ("end", "event", "error"),
    [
        (finish, "walk.succeeded", None),
        (fail, "walk.failed", {"code": "render_failed", "message": "It broke."}),
        (cancel, "walk.canceled", None),
    ],
)
def test_the_webhook_of_a_finished_walk_has_a_valid_signature(
    api: TestClient,
    hook: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[UUID], None],
    event: str,
    error: dict[str, str] | None,
) -> None:
    walk = api.post("/v1/walks", json={**ORDER, "prompts": ["モナ・リザ", "b"], "webhook_url": hook.url}).json()
    secret = api.get("/v1/webhook-secret").json()["secret"]
    monkeypatch.setenv("PUBLIC_URL", "https://walks.example/")
    settings.cache_clear()
    assert recorded() == []
    end(UUID(walk["id"]))
    assert attempt(hook.resolve) == DeliveryStatus.DELIVERED
    (got,) = hook.got
    message = verify(got, secret)
    assert message == {
        "type": event,
        "timestamp": finished_at(UUID(walk["id"])),
        "data": {
            "id": walk["id"],
            "status": event.removeprefix("walk."),
            "prompts": ["モナ・リザ", "b"],
            "error": error,
            "urls": {
                "self": f"https://walks.example/v1/walks/{walk['id']}",
                "web": f"https://walks.example/walks/{walk['id']}",
            },
        },
    }
    assert (got.path, got.headers["host"]) == ("/hook?walk=1", f"receiver.test:{hook.port}")
    assert got.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        verify(receiver.Delivery(got.path, got.headers, got.body.replace(event, "walk.other")), secret)
    assert delivery().finished_at is not None
    make_due()
    assert claim() is None


def test_each_key_and_each_visitor_has_its_own_lasting_secret(api: TestClient) -> None:
    def secret(client: TestClient) -> str:
        answer = client.get("/v1/webhook-secret").raise_for_status()
        assert (answer.headers["cache-control"], answer.headers.get("set-cookie")) == ("no-store", None)
        return str(answer.json()["secret"])

    with transaction() as session:
        made = [api_keys.create(session, name)[1] for name in ("ann", "bob")]
    callers = [
        api,
        TestClient(api.app),
        *(TestClient(api.app, headers={"Authorization": f"Bearer {key}"}) for key in made),
    ]
    for visitor in callers[:2]:
        assert visitor.get("/v1/webhook-secret").status_code == 401
        visitor.post("/v1/walks", json=ORDER)
    secrets = [secret(caller) for caller in callers]
    assert len(set(secrets)) == 4
    assert [secret(caller) for caller in callers] == secrets
    master = settings().webhook_secret
    assert master
    assert master.get_secret_value() not in secrets


def test_a_running_walk_that_is_deleted_is_reported_as_canceled_before_its_row_is_removed(
    api: TestClient, hook: Receiver
) -> None:
    walk = api.post("/v1/walks", json={**ORDER, "webhook_url": hook.url}).json()
    assert api.delete(f"/v1/walks/{walk['id']}").status_code == 204
    with transaction() as session:
        session.execute(update(Walk).values(deleted_at=func.now() - timedelta(hours=1)))
    run_retention()
    assert attempt(hook.resolve) == DeliveryStatus.DELIVERED
    message = verify(hook.got[0], api.get("/v1/webhook-secret").json()["secret"])
    assert (message["type"], message["data"]["id"]) == ("walk.canceled", walk["id"])
    with transaction() as session:
        session.execute(update(Walk).values(purge_after=func.now()))
    run_retention()
    with transaction() as session:
        assert session.scalars(select(func.count()).select_from(Walk)).one() == 0


def test_a_finished_walk_that_is_deleted_is_reported_once_as_it_ended(api: TestClient, hook: Receiver) -> None:
    walk = api.post("/v1/walks", json={**ORDER, "webhook_url": hook.url}).json()
    finish(UUID(walk["id"]))
    assert api.delete(f"/v1/walks/{walk['id']}").status_code == 204
    assert attempt(hook.resolve) == DeliveryStatus.DELIVERED
    assert claim() is None
    assert [json.loads(got.body)["type"] for got in hook.got] == ["walk.succeeded"]


def test_a_rolled_back_end_of_a_walk_is_not_reported(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        walk_id = service.create(session, spec(), public=True, owner="ann", webhook_url="https://example.com/").id
    with transaction() as session:
        service.cancel(session, walk_id, owner="ann")
        session.rollback()
    assert recorded() == []
    cancel(walk_id)
    cancel(walk_id)
    assert delivery().walk_id == walk_id


def test_a_walk_without_a_webhook_sends_none(services: LocalStack, spec: MakeSpec) -> None:
    with transaction() as session:
        walk_id = service.create(session, spec(), public=True, owner="ann").id
    cancel(walk_id)
    assert recorded() == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "must begin with https://"),
        ("http://127.0.0.1/", "must begin with https://"),
        ("ftp://example.com/", "must begin with https://"),
        ("example.com/hook", "must begin with https://"),
        ("https://", "must have a host"),
        ("https:///hook", "must have a host"),
        ("https://ann:secret@example.com/", "user name or a password"),
        ("https://ann@example.com/", "user name or a password"),
        ("https://127.0.0.1/", "public Internet"),
        ("https://[::1]/", "public Internet"),
        ("https://[::ffff:10.0.0.1]/", "public Internet"),
        ("https://169.254.169.254/latest/meta-data", "public Internet"),
        ("https://exa\x00mple.com/", "must be a URL"),
        ("https://example.com/\ud800", "string"),
        ("https://example.com:99999/", "must have a port from 1 to 65535, got 99999"),
        ("https://example.com:0/", "must have a port from 1 to 65535, got 0"),
        ("https://[::1/", "must be a URL"),
        ("https://example.com/" + "x" * 1981, "at most 2000 characters, got 2001"),
        (7, "must be a string"),
    ],
)
def test_an_invalid_webhook_url_is_refused_with_its_field(api: TestClient, url: object, words: str) -> None:
    body = json.dumps({**ORDER, "webhook_url": url})
    answer = api.post("/v1/walks", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    (error,) = answer.json()["errors"]
    assert error["field"] == "webhook_url"
    assert words in error["message"]
    assert "ann:secret" not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/hook?token=1",
        "https://1.1.1.1/",
        "https://müller.example/é",
        "https://example.com/" + "x" * 1980,
        None,
    ],
)
def test_a_webhook_url_is_stored_and_never_shown(api: TestClient, url: str | None) -> None:
    walk = api.post("/v1/walks", json={**ORDER, "webhook_url": url})
    assert walk.status_code == 202
    with transaction() as session:
        assert (session.scalars(select(Walk.webhook_url)).one() is None) == (url is None)
    for seen in (walk, api.get(f"/v1/walks/{walk.json()['id']}"), api.get("/v1/walks")):
        assert "webhook" not in seen.text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://localhost:9/", "https://[::1]:9/"])
def test_webhooks_to_this_machine_are_accepted_if_the_operator_allows_them(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert api.post("/v1/walks", json={**ORDER, "webhook_url": url}).status_code == 422
    monkeypatch.setenv("WEBHOOK_LOOPBACK", "true")
    settings.cache_clear()
    assert api.post("/v1/walks", json={**ORDER, "webhook_url": url}).status_code == 202
    outside = api.post("/v1/walks", json={**ORDER, "webhook_url": "http://example.com/"})
    assert "must begin with https://" in outside.json()["detail"]


def test_a_server_without_a_secret_refuses_webhooks(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET")
    settings.cache_clear()
    answer = api.post("/v1/walks", json={**ORDER, "webhook_url": "https://example.com/"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "webhook_url")
    assert "sends no webhooks" in answer.json()["detail"]
    assert api.post("/v1/walks", json=ORDER).status_code == 202
    secret = api.get("/v1/webhook-secret")
    assert (secret.status_code, secret.json()["type"]) == (404, "/problems/webhooks-off")


def test_a_system_on_one_machine_stores_its_secret_privately(services: LocalStack) -> None:
    file = services.folder / "webhook-secret"
    assert services.variables["WEBHOOK_SECRET"] == stack._stored_secret(file) == file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
