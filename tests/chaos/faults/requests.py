"""Faults of the API, of messages, and of the walks themselves."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import redis
from kombu.exceptions import KombuError

from tests.chaos.faults.matrix import Miss, row
from tests.chaos.stage import ORDERS, QUEUE_PREFIX, Stage

# API


@row("API", "SIGKILL between commit and publish")
def _(stage: Stage) -> None:
    """A frozen broker delays the API after its commit."""
    before = {walk for (walk,) in stage.rows("SELECT id::text FROM walks")}
    with httpx.Client(timeout=15) as http, ThreadPoolExecutor(1) as pool:
        valkey = stage.process("valkey")
        valkey.send_signal(signal.SIGSTOP)
        try:
            submission = pool.submit(stage.submit, http)
            stage.until(
                lambda: {walk for (walk,) in stage.rows("SELECT id::text FROM walks")} - before or None, seconds=10
            )
            stage.kill("api")
        finally:
            valkey.send_signal(signal.SIGCONT)
        submission.result()


@row("API", "SIGKILL under load")
def _(stage: Stage) -> None:
    _under_load(stage, lambda: stage.kill("api"))


WAITING_INSERT = (
    "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO walks%%'"
)


@row("API", "SIGTERM drains requests in flight")
def _(stage: Stage) -> None:
    """A locked table delays a submission, so that SIGTERM finds it in flight; it must still be answered."""
    with httpx.Client(timeout=15) as http, stage.database() as connection, stage.submitting:
        if not stage.until(lambda: stage.answers(http), seconds=30):
            raise Miss
        api, answers = stage.process("api"), list[int]()

        def submit() -> None:
            try:
                answer = http.post(f"{stage.url}/v1/walks", json=ORDERS[0])
            except httpx.TransportError:
                return
            answers.append(answer.status_code)
            if answer.status_code == 202:
                stage.diary.accept(answer, 0, http)

        submission = threading.Thread(target=submit)
        with connection.transaction():
            connection.execute("LOCK TABLE walks IN EXCLUSIVE MODE")
            submission.start()
            in_flight = stage.until(lambda: connection.execute(WAITING_INSERT).fetchone(), seconds=4)
            api.send_signal(signal.SIGTERM)
        submission.join()
    if in_flight and not answers:
        stage.wrong("a submission in flight was not answered when the API was asked to stop")
    try:
        api.wait(15)
    except subprocess.TimeoutExpired:
        stage.wrong("the API did not stop within 15 s of SIGTERM")
        api.kill()


def _under_load(stage: Stage, strike: Callable[[], object]) -> None:
    def visit(_: int) -> None:
        with httpx.Client(timeout=10) as http:
            for _turn in range(5):
                with contextlib.suppress(httpx.TransportError):
                    http.get(f"{stage.url}/v1/walks")

    with ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit, number) for number in range(4)]
        strike()
        for done in visits:
            done.result()


# Messages


def _publish(stage: Stage, kind: str, count: int) -> None:
    """Send wake-up messages in the product's own format, from outside."""
    from celery import Celery  # noqa: PLC0415

    with (
        contextlib.suppress(KombuError, redis.RedisError, OSError),
        Celery(broker=stage.variables["BROKER_URL"]) as app,
    ):
        app.conf.broker_transport_options = {"global_keyprefix": QUEUE_PREFIX}
        for _ in range(count):
            queue = {"render": "render:momalisa-mini"}.get(kind, kind)
            app.send_task(f"momalisa.{kind}", queue=queue, ignore_result=True, retry=False)


@row("messages", "every task twice")
def _(stage: Stage) -> None:
    [(render,)] = stage.rows("SELECT count(*) FROM chunks WHERE status = 'queued' AND kind = 'render'")
    _publish(stage, "render", render)
    _publish(stage, "assemble", 1)


@row("messages", "three at once, out of order")
def _(stage: Stage) -> None:
    for kind in ("assemble", "render", "assemble", "render"):
        _publish(stage, kind, 3)


@row("messages", "a task for a walk that is gone")
def _(stage: Stage) -> None:
    with httpx.Client(timeout=10) as http:
        walk_id = stage.submit(http)
    if walk_id is None:
        raise Miss
    stage.rows("DELETE FROM walks WHERE id = %s", walk_id)
    stage.diary.removed.add(walk_id)


# Work


@row("work", "a chunk that always fails")
def _(stage: Stage) -> None:
    """A width that no model renders, put into the database behind the API's back."""
    with httpx.Client(timeout=10) as http:
        walk_id = stage.submit(http, order=3)  # with many chunks, so that some are not claimed yet
    if walk_id is None:
        raise Miss
    spoiled = stage.rows(
        "UPDATE walks SET spec = jsonb_set(spec, '{width}', '12') WHERE id = %s"
        " AND EXISTS (SELECT FROM chunks WHERE walk_id = walks.id AND status = 'queued') RETURNING id",
        walk_id,
    )
    if not spoiled:
        raise Miss
    stage.diary.poisoned.add(walk_id)


def _cancel(stage: Stage, status: str) -> None:
    found = stage.until(
        lambda: (
            stage.rows(
                "SELECT id::text FROM walks WHERE status = %s AND id = ANY(%s::uuid[]) ORDER BY random() LIMIT 1",
                status,
                list(stage.diary.accepted.keys() - stage.diary.poisoned),
            )
            or None
        ),
        seconds=10,
    )
    if not found:
        raise Miss
    [(walk_id,)] = found
    cookies = stage.diary.cookies[walk_id]
    try:
        answer = httpx.post(f"{stage.url}/v1/walks/{walk_id}/cancel", cookies=cookies, timeout=10)
    except httpx.TransportError:
        stage.diary.canceled.add(walk_id)  # it may have succeeded anyway
        raise Miss from None
    if answer.status_code in {200, 503}:
        stage.diary.canceled.add(walk_id)
    elif answer.status_code not in {404, 409}:  # too late, or deleted
        stage.wrong(f"a cancellation was answered with {answer.status_code}")


@row("work", "canceled while queued")
def _(stage: Stage) -> None:
    _cancel(stage, "queued")


@row("work", "canceled while running")
def _(stage: Stage) -> None:
    _cancel(stage, "running")


@row("work", "canceled while assembling")
def _(stage: Stage) -> None:
    _cancel(stage, "assembling")
