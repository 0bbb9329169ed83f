"""Signed URLs if IAM signs: one request per URL, to a slow service."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import google.auth
import pytest
from fastapi.testclient import TestClient
from google.auth import compute_engine, iam
from limits import RateLimitItemPerMinute
from sqlalchemy import insert

from api import limits
from momalisa.db import session
from momalisa.db.models import Artifact
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind
from momalisa.queue import celery_app
from momalisa.storage import bucket
from momalisa.walks import service
from tests.conftest import clear_caches, until
from tests.serving import serving

SECONDS = 0.1
"""Seconds per signature."""


@dataclass
class Iam:
    """Signs every request, and records what happened in the meantime."""

    status: int = 200
    signed: Counter[str] = field(default_factory=Counter)
    now: int = 0
    most: int = 0
    held: set[int] = field(default_factory=set)
    """Database connections that were in use while it signed."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sign(self, payload: str) -> bytes:
        with self.lock:
            self.signed[payload] += 1
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(SECONDS)
        with self.lock:
            self.now -= 1
            self.held.add(session.engine().pool.checkedout())  # type: ignore[attr-defined]
        return json.dumps({"signedBlob": base64.b64encode(b"signed").decode()}).encode()


@pytest.fixture
def iam_service(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Iam]:
    """A private bucket, and IAM on loopback that signs for the account of a virtual machine."""
    service = Iam()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = service.sign(json.loads(body)["payload"])
            self.send_response(service.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    account = compute_engine.Credentials(  # type: ignore[no-untyped-call]
        service_account_email="api@momalisa.example", universe_domain="googleapis.com"
    )
    account.token = "never expires"  # noqa: S105
    server = Server(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(google.auth, "default", lambda **_: (account, "momalisa"))
    monkeypatch.setattr(iam, "_IAM_SIGN_ENDPOINT", f"http://127.0.0.1:{server.server_port}/{{}}:signBlob")
    monkeypatch.setenv("SIGNED_URLS", "true")
    clear_caches()
    with serving(server):
        yield service


def hang(walks: int, spec: WalkSpec) -> None:
    """Insert finished walks with all their artifacts."""
    with transaction() as session:
        for _ in range(walks):
            walk = service.create(session, spec, public=True, owner="visitor:ann")
            session.execute(
                insert(Artifact).values(
                    [
                        {"walk_id": walk.id, "kind": kind, "object": f"walks/{walk.id}/{kind}", "bytes": 9}
                        | {"crc32c": "AAAAAA==", "width": 128, "height": 128}
                        for kind in ArtifactKind
                    ]
                )
            )


def test_urls_are_signed_concurrently_and_once_without_a_connection(
    api: TestClient, iam_service: Iam, spec: Callable[..., WalkSpec]
) -> None:
    hang(100, spec(frames=2))
    walks = api.get("/v1/walks?limit=100").json()["walks"]
    urls = {it["url"] for walk in walks for it in walk["artifacts"].values()}
    assert len(urls) == 100 * len(ArtifactKind)
    assert all("X-Goog-Signature=" in url for url in urls)
    assert iam_service.most >= 10  # of 64, on a busy machine
    assert iam_service.held == {0}
    for path in ("/gallery", f"/walks/{walks[0]['id']}", f"/v1/walks/{walks[0]['id']}"):
        assert api.get(path).status_code == 200
    assert len(iam_service.signed) == iam_service.signed.total() == len(urls)


def test_concurrent_requests_for_the_same_urls_share_signatures(
    api: TestClient, iam_service: Iam, spec: Callable[..., WalkSpec]
) -> None:
    hang(2, spec(frames=2))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.get("/v1/walks").status_code, range(4)))
    assert answers == [200] * 4
    assert len(iam_service.signed) == iam_service.signed.total() == 2 * len(ArtifactKind)


def test_while_iam_is_down_clients_are_asked_to_retry(
    api: TestClient, iam_service: Iam, spec: Callable[..., WalkSpec]
) -> None:
    hang(1, spec(frames=2))
    iam_service.status = 403
    refused = api.get("/v1/walks")
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/unavailable")
    iam_service.status = 200
    until(lambda: api.get("/v1/walks").status_code == 200)  # signatures that were under way are still refused


def test_a_page_without_files_needs_no_credentials(
    api: TestClient, iam_service: Iam, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise google.auth.exceptions.DefaultCredentialsError

    monkeypatch.setattr(google.auth, "default", refuse)
    assert api.get("/v1/walks").status_code == 200


def test_no_other_service_is_called_within_a_transaction() -> None:
    counters = limits._counters("redis://127.0.0.1:1/0", "")
    asked = (
        lambda: bucket.url("a", "http://museum"),
        lambda: bucket.delete_all(bucket.folder_name(uuid4())),
        lambda: celery_app.publish(ChunkKind.RENDER),
        lambda: counters.take(RateLimitItemPerMinute(1), "ann", 1),
    )
    for ask in asked:
        with pytest.raises(AssertionError, match="before or after a transaction"), transaction():
            ask()
