"""What is measured where it happens: walks, connections, the bucket, signatures and messages."""

from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi.testclient import TestClient
from sqlalchemy import text

from momalisa import description
from momalisa.db.session import engine, transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind
from momalisa.errors import StoreUnavailableError
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import catalog, celery_app, leases, lifecycle, results
from momalisa.queue.results import UploadedArtifact
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry import metrics
from momalisa.telemetry.metrics import Metric
from momalisa.walks import service
from tests.claims import render_a_chunk
from tests.conftest import clear_caches, until

MakeSpec = Callable[..., WalkSpec]


def sample(metric: Metric, name: str, **labels: str) -> float | None:
    """Return a sample of this process by the end of its name and its labels, or None if there is none."""
    [family] = metric.collect()
    for found in family.samples:
        if found.name == family.name + name and labels.items() == found.labels.items():
            return found.value
    return None


def count(metric: Metric, **labels: str) -> float:
    return sample(metric, "_count", **labels) or 0


def make(spec: MakeSpec, frames: int = 16) -> UUID:
    with transaction() as session:
        return service.create(session, spec(frames=frames, pacing="linear"), public=True, owner="ann").id


def test_probes_are_not_counted_among_requests(api: TestClient) -> None:
    def counted() -> float:
        [family] = metrics.HTTP_REQUESTS.collect()
        return sum(found.value for found in family.samples if found.name.endswith("_total"))

    before = counted()
    for path in ("/healthz", "/readyz"):
        assert api.get(path).status_code == 200
    assert counted() == before
    api.get("/healthz/x")
    assert counted() == before + 1


def test_the_first_frames_of_a_walk_are_timed_once_and_after_the_commit(
    services: LocalStack, spec: MakeSpec
) -> None:
    walk_id = make(spec)
    with transaction() as session:  # half a minute ago
        session.execute(text("UPDATE walks SET created_at = created_at - interval '30 seconds'"))
    before, seconds = count(metrics.FIRST_FRAME_SECONDS), sample(metrics.FIRST_FRAME_SECONDS, "_sum") or 0
    render_a_chunk()
    assert count(metrics.FIRST_FRAME_SECONDS) == before + 1
    assert 30 <= (sample(metrics.FIRST_FRAME_SECONDS, "_sum") or 0) - seconds < 60

    def is_rendered() -> bool:
        render_a_chunk()
        with transaction() as session:
            return bool(
                session.scalar(text("SELECT status = 'assembling' FROM walks WHERE id = :id"), {"id": walk_id})
            )

    until(is_rendered, pause=0)
    assert count(metrics.FIRST_FRAME_SECONDS) == before + 1


def test_each_end_of_a_walk_is_counted_once_by_its_status(services: LocalStack, spec: MakeSpec) -> None:
    def ends() -> dict[str, float]:
        return {
            status: count(metrics.WALK_SECONDS, status=status) for status in ("succeeded", "failed", "canceled")
        }

    before = ends()
    make(spec, frames=4)
    render_a_chunk()
    with transaction() as session:
        claim = leases.claim(session, ChunkKind.ASSEMBLE, "here")
        assert claim
        gif = UploadedArtifact(ArtifactKind.GIF, StoredObject("walk.gif", 9, "AAAAAA=="), 8, 8)
        results.complete_walk(session, claim, [gif])
    canceled, failed = make(spec), make(spec)
    for _ in range(2):
        with transaction() as session:
            service.cancel(session, canceled, owner="ann")
    for _ in range(2):
        with transaction() as session:
            lifecycle.fail_walk(session, failed, ChunkKind.RENDER)
    assert ends() == {status: number + 1 for status, number in before.items()}


def test_an_end_that_was_rolled_back_is_not_counted(services: LocalStack, spec: MakeSpec) -> None:
    walk_id, before = make(spec), count(metrics.WALK_SECONDS, status="failed")
    with transaction() as session:
        lifecycle.fail_walk(session, walk_id, ChunkKind.RENDER)
        session.rollback()
    assert count(metrics.WALK_SECONDS, status="failed") == before


def test_the_wait_for_a_connection_is_measured_also_in_vain(services: LocalStack) -> None:
    with ExitStack() as held:
        for _ in range(20):  # the whole pool
            held.enter_context(engine().connect())
        before, seconds = count(metrics.CONNECTION_SECONDS), sample(metrics.CONNECTION_SECONDS, "_sum") or 0
        with pytest.raises(StoreUnavailableError), transaction() as session:
            session.execute(text("SELECT 1"))
    assert count(metrics.CONNECTION_SECONDS) == before + 1
    assert (sample(metrics.CONNECTION_SECONDS, "_sum") or 0) - seconds >= 2
    assert not engine().pool._should_log_info()


def test_requests_to_the_bucket_are_timed_by_method_and_status(services: LocalStack) -> None:
    def requests(method: str, status: str) -> float:
        return count(metrics.BUCKET_SECONDS, method=method, status=status)

    uploads, found, missing = requests("POST", "200"), requests("GET", "200"), requests("GET", "404")
    stored = bucket.upload("walks/measured", b"picture", "image/png")
    assert bucket.read(stored) == b"picture"
    bucket.delete_conflicting("walks/not-there")
    assert requests("POST", "200") == uploads + 1
    assert requests("GET", "200") > found
    assert requests("GET", "404") == missing + 1


def test_each_signature_is_timed_and_none_that_is_cached(private_bucket: rsa.RSAPublicKey) -> None:
    before = count(metrics.SIGNING_SECONDS)
    for _ in range(2):
        bucket.url("walks/a", "http://here")
    assert count(metrics.SIGNING_SECONDS) == before + 1


def test_messages_that_wait_are_known_as_long_as_the_broker_is(
    services: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    celery_app.publish(ChunkKind.RENDER, 3)
    reconciler.update_message_gauges()
    own = description.of_settings().name
    assert sample(metrics.MESSAGES, "", kind="render", model=own) == 3
    with transaction() as session:
        catalog.report(session, description.of_settings().model_copy(update={"name": "ink"}))
    celery_app.publish(ChunkKind.RENDER, 2, "ink")
    reconciler.update_message_gauges()
    assert sample(metrics.MESSAGES, "", kind="render", model=own) == 3
    assert sample(metrics.MESSAGES, "", kind="render", model="ink") == 2
    assert sample(metrics.MESSAGES, "", kind="assemble", model="") == 0
    failures = sample(metrics.BROKER_FAILURES, "_total") or 0
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    clear_caches()
    reconciler.update_message_gauges()
    assert sample(metrics.MESSAGES, "", kind="render", model=own) is None
    assert sample(metrics.BROKER_FAILURES, "_total") == failures + 1
