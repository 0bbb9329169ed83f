"""The tasks of the reconciler fail independently."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import delete, func, select, text, update

from momalisa.db.models import Chunk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkStatus
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.settings import ROOT, environment, settings
from momalisa.telemetry import metrics
from momalisa.walks import service
from tests.conftest import until
from tests.serving import serving


@pytest.fixture
def revoked(tmp_path: Path) -> Iterator[Path]:
    """The key file of a service account whose key was revoked: requests for tokens are refused."""

    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    key = rsa.generate_private_key(65537, 2048)
    account = {
        "type": "service_account",
        "project_id": "momalisa",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "reconciler@momalisa.example",
        "token_uri": f"http://127.0.0.1:{server.server_port}/token",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    with serving(server):
        yield file


def test_revoked_credentials_stop_only_tasks_that_need_the_bucket(
    services: LocalStack, spec: Callable[..., WalkSpec], revoked: Path, tmp_path: Path
) -> None:
    def lose_a_lease() -> None:
        with transaction() as session:
            session.execute(
                update(Chunk).values(
                    status=ChunkStatus.LEASED,
                    lease_token=uuid4(),
                    lease_expires_at=func.now() - text("interval '1 second'"),
                )
            )

    def taken_back() -> bool:
        with transaction() as session:
            return session.scalars(select(Chunk.status)).all() == [ChunkStatus.QUEUED]

    with transaction() as session:
        gone = service.create(session, spec(), public=True, owner="key:a").id
        service.remove(session, gone)
        session.execute(text("UPDATE walks SET deleted_at = now() - interval '1 hour'"))
        session.execute(delete(Chunk))
        service.create(session, spec(), public=True, owner="key:a")
    lose_a_lease()
    log = tmp_path / "log"
    variables = {
        **services.variables,
        "GOOGLE_APPLICATION_CREDENTIALS": str(revoked),
        "LEASE_SECONDS": "0.1",
        "RECONCILE_SECONDS": "0.05",
        "LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "momalisa", "reconcile"]
    environ = environment(**variables | {"BUCKET_ENDPOINT": None})
    with log.open("wb") as file, subprocess.Popen(command, cwd=ROOT, env=environ, stderr=file) as process:
        try:
            until(taken_back, 30)
            until(lambda: log.read_text().count("task failed") > 1, 30)  # it keeps retrying
            lose_a_lease()
            until(taken_back, 10)
            assert process.poll() is None
        finally:
            process.terminate()
    assert process.returncode == 0
    skipped = [line for line in map(json.loads, log.read_text().splitlines()) if line["message"] == "task failed"]
    assert {line["task"] for line in skipped} == {"remove_walks", "delete_orphans"}
    assert "RefreshError" in skipped[0]["cause"]
    assert "Invalid JWT Signature" in skipped[0]["cause"]


def test_an_error_in_a_task_is_counted_and_does_not_stop_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECONCILE_SECONDS", "0.01")
    settings.cache_clear()
    stop = threading.Event()
    rounds = 0

    def faulty() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            stop.set()
        raise KeyError("an unexpected bug")

    count = metrics.TASK_FAILURES.labels(task="faulty")._value
    before = count.get()
    reconciler.repeat(faulty, stop)
    assert count.get() == before + 3
    settings.cache_clear()
