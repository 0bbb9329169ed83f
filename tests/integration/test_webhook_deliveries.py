"""Sending webhooks to a real HTTPS receiver: retries, timeouts, certificates, and many senders."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from momalisa.db.models import WebhookDelivery
from momalisa.db.session import transaction
from momalisa.domain.states import DeliveryStatus
from momalisa.maintenance import reconciler
from momalisa.settings import ROOT, environment, settings
from momalisa.webhooks import deliveries, sender, ssrf
from momalisa.webhooks.sender import Outcome
from tests import receiver
from tests.conftest import until
from tests.deliveries import attempt, claim, delivery, make_due, verify
from tests.receiver import Receiver


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
