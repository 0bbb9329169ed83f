"""Webhooks: from the end of a walk to a real HTTPS receiver, and to public addresses only."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from standardwebhooks import Webhook, WebhookVerificationError

from momalisa import api_keys
from momalisa.db.models import Walk, WebhookDelivery
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind, DeliveryStatus, WalkStatus
from momalisa.local import stack
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import leases, lifecycle, results
from momalisa.queue.lifecycle import Ready
from momalisa.settings import ROOT, environment, settings
from momalisa.storage.bucket import StoredObject
from momalisa.walks import queries, service
from momalisa.webhooks import deliveries, sender, ssrf
from momalisa.webhooks.sender import Message, Outcome
from tests import receiver
from tests.conftest import made_frames, run_retention, until
from tests.receiver import Receiver

MakeSpec = Callable[..., WalkSpec]
ORDER = {"prompts": ["a giraffe", "a battleship"], "frames": 4, "seed": 7}


@pytest.fixture
def barred(services: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver on this machine, which is trusted but not allowed."""
    with receiver.listening(tmp_path) as listening:
        monkeypatch.setenv("WEBHOOK_CA", str(listening.authority))
        settings.cache_clear()
        yield listening


@pytest.fixture
def hook(barred: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver that is allowed, with the name `receiver.test`."""
    monkeypatch.setenv("WEBHOOK_LOOPBACK", "true")
    settings.cache_clear()
    return barred


@pytest.fixture
def canceled(services: LocalStack, spec: MakeSpec) -> Callable[..., UUID]:
    """Create a walk with a webhook and cancel it, so that there is a delivery."""

    def make(url: str, owner: str = "ann") -> UUID:
        with transaction() as session:
            walk_id = service.create(session, spec(), public=True, owner=owner, webhook_url=url).id
        with transaction() as session:
            service.cancel(session, walk_id, owner=owner)
        return walk_id

    return make


def claim() -> Message | None:
    with transaction() as session:
        return deliveries.claim(session)


def attempt(resolve: ssrf.Resolve) -> DeliveryStatus | None:
    """Claim the delivery that is due, send it, and record the outcome."""
    message = claim()
    assert message is not None
    outcome = sender.send(message, resolve)
    with transaction() as session:
        return deliveries.record(session, message, outcome)


def recorded() -> list[WebhookDelivery]:
    with transaction() as session:
        return list(session.scalars(select(WebhookDelivery)))


def delivery() -> WebhookDelivery:
    (only,) = recorded()
    return only


def make_due(**changes: Any) -> None:
    """Make a delivery due, or the lease of its sender expire."""
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(scheduled_at=func.now() - timedelta(seconds=1), **changes))


def verify(got: receiver.Delivery, secret: str | None = None) -> dict[str, Any]:
    """Verify a signature as a receiver does, with the owner's secret, and return the message."""
    message: dict[str, Any] = Webhook(secret or sender.signing_secret("ann")).verify(got.body, got.headers)
    return message


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


def test_a_failing_receiver_gets_the_same_message_again(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    hook.answers = [receiver.status(500), receiver.status(503), receiver.status(200)]
    canceled(hook.url)
    for number in (1, 2):
        before = delivery().scheduled_at
        assert attempt(hook.resolve) == DeliveryStatus.PENDING
        assert delivery().scheduled_at > before
        assert delivery().attempts == number
        assert claim() is None  # not before it is due
        make_due()
    assert delivery().error == "the receiver answered 503"
    assert attempt(hook.resolve) == DeliveryStatus.DELIVERED
    assert len({got.headers["webhook-id"] for got in hook.got}) == 1
    assert len({got.body for got in hook.got}) == 1
    assert [verify(got)["type"] for got in hook.got] == ["walk.canceled"] * 3
    assert (delivery().attempts, delivery().error) == (3, None)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: Receiver, canceled: Callable[..., UUID], code: int) -> None:
    hook.answers = [receiver.status(code, location=f"https://receiver.test:{hook.port}/elsewhere")]
    canceled(hook.url)
    assert attempt(hook.resolve) == DeliveryStatus.PENDING
    assert [got.path for got in hook.got] == ["/hook?walk=1"]
    assert delivery().error == f"the receiver answered {code}"


def test_a_receiver_that_answers_410_gets_no_more_messages(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    hook.answers = [receiver.status(410)]
    canceled(hook.url)
    assert attempt(hook.resolve) == DeliveryStatus.GIVEN_UP
    assert delivery().finished_at is not None
    make_due()
    assert claim() is None


def test_a_delivery_is_given_up_after_a_day(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    hook.answers = [receiver.status(500)]
    canceled(hook.url)
    make_due(created_at=func.now() - timedelta(hours=23))
    assert attempt(hook.resolve) == DeliveryStatus.PENDING
    make_due(created_at=func.now() - timedelta(hours=24))
    assert attempt(hook.resolve) == DeliveryStatus.GIVEN_UP
    assert delivery().error == "the receiver answered 500"


def test_the_pauses_grow_from_seconds_to_hours() -> None:
    for number, seconds in [(1, 5), (2, 10), (3, 20), (10, 2560), (12, 7200), (5000, 7200)]:
        pauses = {deliveries.backoff_seconds(number) for _ in range(20)}
        assert len(pauses) > 1
        assert all(0.75 * seconds <= pause <= 1.25 * seconds for pause in pauses)


def silent(stop: threading.Event) -> receiver.Answer:
    return lambda _: (stop.wait(20), None)[1]


def dripping(stop: threading.Event) -> receiver.Answer:
    """Send an endless header byte by byte, fast enough for a timeout per read."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not stop.wait(0.05):
            request.wfile.write(b"y")

    return answer


@pytest.mark.parametrize("answer", [silent, dripping])
def test_a_slow_receiver_times_out_and_is_retried(
    hook: Receiver,
    canceled: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[threading.Event], receiver.Answer],
) -> None:
    monkeypatch.setenv("WEBHOOK_TIMEOUT_SECONDS", "2")
    settings.cache_clear()
    stop = threading.Event()
    hook.answers = [answer(stop)]
    canceled(hook.url)
    started = time.monotonic()
    assert attempt(hook.resolve) == DeliveryStatus.PENDING
    assert time.monotonic() - started < 5
    assert "ReadTimeout" in (delivery().error or "")
    stop.set()


def test_a_receiver_that_accepts_and_never_answers_times_out(
    hook: Receiver, canceled: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssrf, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        canceled(f"https://receiver.test:{mute.getsockname()[1]}/")
        assert attempt(hook.resolve) == DeliveryStatus.PENDING
    assert "ConnectTimeout" in (delivery().error or "")


def test_an_endless_response_is_not_read(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    hung_up = threading.Event()

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x" * 65536)
        except OSError:
            hung_up.set()

    hook.answers = [endless]
    canceled(hook.url)
    assert attempt(hook.resolve) == DeliveryStatus.DELIVERED
    assert hung_up.wait(10)


def test_a_certificate_for_another_name_is_refused(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    canceled(f"https://other.test:{hook.port}/")
    assert attempt(hook.resolve) == DeliveryStatus.PENDING
    assert "CERTIFICATE_VERIFY_FAILED" in (delivery().error or "")
    assert hook.got == []


def test_a_certificate_of_an_unknown_authority_is_refused(
    hook: Receiver, canceled: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBHOOK_CA")
    settings.cache_clear()
    canceled(hook.url)
    assert attempt(hook.resolve) == DeliveryStatus.PENDING
    assert "CERTIFICATE_VERIFY_FAILED" in (delivery().error or "")
    assert hook.got == []


def test_concurrent_senders_send_each_message_once(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    for _ in range(6):
        canceled(hook.url)

    def send_all(_: int) -> int:
        sent = 0
        while message := claim():
            outcome = sender.send(message, hook.resolve)
            with transaction() as session:
                assert deliveries.record(session, message, outcome) == DeliveryStatus.DELIVERED
            sent += 1
        return sent

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send_all, range(8))) == 6
    assert len({got.headers["webhook-id"] for got in hook.got}) == len(hook.got) == 6


def test_a_message_that_is_being_sent_is_not_claimed(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    canceled(hook.url)
    assert claim() is not None
    assert claim() is None


def test_a_message_is_sent_again_if_its_sender_dies_before_recording(
    hook: Receiver, canceled: Callable[..., UUID]
) -> None:
    canceled(hook.url)
    message = claim()
    assert message
    outcome = sender.send(message, hook.resolve)
    make_due()  # the sender died here, and its lease has run out
    assert attempt(hook.resolve) == DeliveryStatus.DELIVERED
    assert [got.headers["webhook-id"] for got in hook.got] == [delivery().id] * 2
    with transaction() as session:  # it was only asleep, and is too late
        assert deliveries.record(session, message, Outcome(DeliveryStatus.PENDING, "late")) is None
    assert outcome.status == delivery().status == DeliveryStatus.DELIVERED
    assert delivery().error is None


def test_a_sender_past_its_deadline_sends_nothing(
    hook: Receiver, canceled: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled(hook.url)
    message = claim()
    assert message
    monkeypatch.setattr(time, "monotonic", lambda: message.deadline + 1)
    assert sender.send(message, hook.resolve).status == DeliveryStatus.PENDING
    assert hook.got == []


@contextmanager
def reconciling() -> Iterator[None]:
    """Run the task that delivers webhooks in as many threads as the reconciler."""
    stop = threading.Event()
    with ThreadPoolExecutor(reconciler.SENDERS) as pool:
        senders = [
            pool.submit(reconciler.repeat, reconciler.deliver_webhooks, stop) for _ in range(reconciler.SENDERS)
        ]
        try:
            yield
        finally:
            stop.set()
    for thread in senders:
        thread.result()


@pytest.mark.parametrize(
    ("owner", "host"),
    [
        (lambda _: "ann", lambda n: f"tarpit-{n}.receiver.test"),  # one owner with tarpits on many hosts
        (lambda n: f"visitor-{n}", lambda _: "tarpit.receiver.test"),  # one tarpit for many owners
    ],
)
def test_hanging_receivers_delay_no_other_owner_or_host(
    hook: Receiver,
    canceled: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
    owner: Callable[[int], str],
    host: Callable[[int], str],
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", hook.port))])
    monkeypatch.setenv("RECONCILE_SECONDS", "0.05")
    settings.cache_clear()
    release, prompt_ones_came = threading.Event(), threading.Event()
    hanging = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/slow":
            hanging.append(1)
            release.wait(20)
            hanging.pop()
        elif sum(got.path == "/prompt" for got in hook.got) == 5:
            prompt_ones_came.set()
        receiver.status(204)(request)

    hook.answers = [answer]
    for number in range(reconciler.SENDERS):
        canceled(f"https://{host(number)}:{hook.port}/slow", owner(number))
    with reconciling():
        until(lambda: len(hanging) == deliveries.MAX_CONCURRENT)
        for _ in range(5):
            canceled(f"https://receiver.test:{hook.port}/prompt", "bob")
        assert prompt_ones_came.wait(10)
        assert len(hanging) == deliveries.MAX_CONCURRENT
        release.set()


def test_concurrent_claims_do_not_exceed_the_limit_per_owner(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    for number in range(reconciler.SENDERS):
        canceled(f"https://host-{number}.test/")
    with ThreadPoolExecutor(reconciler.SENDERS) as pool:
        claimed = list(pool.map(lambda _: claim(), range(reconciler.SENDERS)))
    assert len([message for message in claimed if message]) == deliveries.MAX_CONCURRENT


def test_owners_without_a_message_in_progress_come_first(hook: Receiver, canceled: Callable[..., UUID]) -> None:
    for number in range(3):
        canceled(f"https://host-{number}.test/", "ann")
    canceled("https://another.test/", "bob")
    owners = [message.owner for _ in range(4) if (message := claim())]
    assert owners == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    ("code", "retry_after", "least", "most"),
    [
        (429, "100", 100, 100),
        (503, "100", 100, 100),
        (429, "0", 3, 7),
        (429, "999999999999", deliveries.MAX_BACKOFF_SECONDS, deliveries.MAX_BACKOFF_SECONDS),
        (429, "soon", 3, 7),
        (500, "100", 3, 7),
    ],
)
def test_retry_after_of_a_receiver_is_respected(
    hook: Receiver, canceled: Callable[..., UUID], code: int, retry_after: str, least: float, most: float
) -> None:
    hook.answers = [receiver.status(code, **{"retry-after": retry_after})]
    canceled(hook.url)
    assert attempt(hook.resolve) == DeliveryStatus.PENDING
    with transaction() as session:
        ahead = session.scalars(select(func.extract("epoch", WebhookDelivery.scheduled_at - func.now()))).one()
    assert least - 5 <= ahead <= most


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_step_of_postgresqls_clock_delays_no_webhook(
    hook: Receiver, canceled: Callable[..., UUID], hours: int
) -> None:
    """Stored times are moved the other way, which has the same effect."""
    hook.answers = [receiver.status(500), receiver.status(204)]
    canceled(hook.url)
    for status in (DeliveryStatus.PENDING, DeliveryStatus.DELIVERED):
        with transaction() as session:
            session.execute(
                update(WebhookDelivery).values(scheduled_at=WebhookDelivery.scheduled_at - timedelta(hours=hours))
            )
        assert attempt(hook.resolve) == status


@contextmanager
def reconciler_process(receiver: Receiver) -> Iterator[subprocess.Popen[bytes]]:
    """Run a reconciler as operators do; it is killed if the block has not stopped it."""
    variables = environment(WEBHOOK_CA=str(receiver.authority), WEBHOOK_LOOPBACK="true", RECONCILE_SECONDS="0.05")
    with subprocess.Popen([sys.executable, "-m", "momalisa", "reconcile"], cwd=ROOT, env=variables) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_message_is_sent_again_if_the_reconciler_is_killed_while_sending(
    hook: Receiver, canceled: Callable[..., UUID]
) -> None:
    arrived = [threading.Event(), threading.Event()]
    release = threading.Event()

    def answer_the_second(request: BaseHTTPRequestHandler) -> None:
        first = not arrived[0].is_set()
        arrived[0 if first else 1].set()
        if first:
            release.wait(30)
        else:
            receiver.status(204)(request)

    hook.answers = [answer_the_second]
    canceled(f"https://localhost:{hook.port}/")
    with reconciler_process(hook) as process:
        assert arrived[0].wait(30)
        process.kill()
        process.wait()
    release.set()
    assert (delivery().status, delivery().attempts) == (DeliveryStatus.PENDING, 1)
    make_due()
    with reconciler_process(hook) as process:
        assert arrived[1].wait(30)
        process.terminate()  # it records the delivery, and exits
        assert process.wait(30) == 0
    assert [got.headers["webhook-id"] for got in hook.got] == [delivery().id] * 2
    assert (delivery().status, delivery().attempts) == (DeliveryStatus.DELIVERED, 2)


def test_without_a_secret_deliveries_stay_pending(
    hook: Receiver, canceled: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled(hook.url)
    monkeypatch.delenv("WEBHOOK_SECRET")
    settings.cache_clear()
    assert reconciler.deliver_webhooks() is False
    assert delivery().attempts == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "[::1]", "10.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433"]
)
def test_nothing_is_sent_to_addresses_that_are_not_public(
    barred: Receiver, canceled: Callable[..., UUID], host: str
) -> None:
    canceled(f"https://{host}:{barred.port}/")
    assert attempt(ssrf.resolve) == DeliveryStatus.GIVEN_UP
    assert (delivery().error or "").startswith("AddressRefusedError: ")
    assert barred.got == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "fe80::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"])
def test_nothing_is_sent_to_a_name_with_a_private_address(
    barred: Receiver, canceled: Callable[..., UUID], address: str
) -> None:
    canceled(barred.url)
    assert attempt(lambda *_: [address]) == DeliveryStatus.GIVEN_UP
    assert (delivery().error or "") == (
        f"AddressRefusedError: receiver.test leads to {address}, which is not on the public Internet."
    )
    assert barred.got == []


def test_dns_rebinding_to_this_machine_has_no_effect(
    barred: Receiver, canceled: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], *_: object, **__: object) -> None:
        called.append(address)
        raise ConnectionRefusedError

    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    canceled(barred.url)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", refuse)
        assert attempt(lambda *_: next(answers)) == DeliveryStatus.PENDING
    assert called == [("93.184.216.34", barred.port)]
    make_due()
    assert attempt(lambda *_: next(answers)) == DeliveryStatus.GIVEN_UP
    assert "leads to 127.0.0.1" in (delivery().error or "")
    assert barred.got == []


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
