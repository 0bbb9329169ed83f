"""Every kind of BROKER_URL with a real server: messages, limits, and a worker that receives messages."""

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from momalisa.domain.states import ChunkKind
from momalisa.local import programs
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.queue import celery_app
from momalisa.settings import settings
from tests.conftest import clear_caches, until
from tests.integration.conftest import worker_process
from tests.receiver import certificates

Start = Callable[[ExitStack, Path], dict[str, str]]
"""Starts a server, and returns the settings that lead to it."""


@contextmanager
def server(folder: Path, *arguments: str, sentinel: str = "") -> Iterator[int]:
    """Run Valkey, or with a configuration a Sentinel, during the block; yields its port."""
    port = free_port()
    command = [str(programs.valkey())]
    if sentinel:
        configuration = folder / "sentinel.conf"
        configuration.write_text(sentinel)
        command += [str(configuration), "--sentinel"]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *arguments]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: _answers(port))
            yield port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(redis.Redis(port=port).ping())
    return False


def by_socket(stack: ExitStack, folder: Path) -> dict[str, str]:
    file = folder / "v.sock"
    stack.enter_context(server(folder, "--save", "", "--unixsocket", str(file), "--requirepass", ""))
    return {"BROKER_URL": f"unix://{file}?db=3"}


def by_password(stack: ExitStack, folder: Path) -> dict[str, str]:
    port = stack.enter_context(server(folder, "--save", ""))
    redis.Redis(port=port).config_set("requirepass", "p@ss/w")
    return {"BROKER_URL": f"valkey://:p%40ss%2Fw@127.0.0.1:{port}/1"}


def by_tls(stack: ExitStack, folder: Path) -> dict[str, str]:
    port = stack.enter_context(server(folder, "--save", ""))
    authority, chain = certificates(folder, "localhost")
    outside = stack.enter_context(terminating_tls(chain, port))
    return {"BROKER_URL": f"rediss://localhost:{outside}/0", "BROKER_CA": str(authority)}


def by_sentinel(stack: ExitStack, folder: Path) -> dict[str, str]:
    """The first of two Sentinels is down; the second knows the master `walks`."""
    port = stack.enter_context(server(folder, "--save", ""))
    watches = f"sentinel monitor walks 127.0.0.1 {port} 1\n"
    sentinel = stack.enter_context(server(folder, sentinel=watches))
    return {"BROKER_URL": f"sentinel://127.0.0.1:{free_port()};127.0.0.1:{sentinel}/walks/2"}


@contextmanager
def terminating_tls(chain: Path, inside: int) -> Iterator[int]:
    """Run a TLS proxy in front of a server without TLS; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as outer,
                socket.create_connection(("127.0.0.1", inside)) as inner,
            ):
                pump = threading.Thread(target=self.pump, args=(inner, outer), daemon=True)
                pump.start()
                self.pump(outer, inner)

        def pump(self, source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as relay:
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield relay.server_address[1]
        relay.shutdown()


@pytest.mark.parametrize("start", [by_socket, by_password, by_tls, by_sentinel])
def test_every_kind_of_broker_url_works_for_all_parts(
    start: Start, services: LocalStack, api: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        variables = start(stack, tmp_path)
        use(monkeypatch, **variables, RATE_LIMITS="on")
        assert "r=" in api.get("/v1/walks").headers["ratelimit"]
        celery_app.publish(ChunkKind.ASSEMBLE)
        assert celery_app.count_messages(ChunkKind.ASSEMBLE) == 1
        log = tmp_path / "worker.log"
        with worker_process(services, ChunkKind.ASSEMBLE, log, **variables):
            until(lambda: "nothing to do" in log.read_text())
        assert celery_app.count_messages(ChunkKind.ASSEMBLE) == 0
        clear_caches()


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    clear_caches()


def test_a_broker_with_an_untrusted_certificate_is_refused(
    services: LocalStack, api: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        variables = by_tls(stack, tmp_path)
        use(monkeypatch, BROKER_URL=variables["BROKER_URL"], RATE_LIMITS="on")
        with pytest.raises(celery_app.BROKER_ERRORS):
            celery_app.count_messages(ChunkKind.RENDER)
        assert "ratelimit" not in api.get("/v1/walks").headers
        use(monkeypatch, BROKER_URL=variables["BROKER_URL"] + "?ssl_cert_reqs=none")
        assert celery_app.count_messages(ChunkKind.RENDER) == 0
        clear_caches()


def test_two_systems_can_share_a_broker(
    services: LocalStack, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, RATE_LIMITS="on", QUEUE_PREFIX="one:")
    celery_app.publish(ChunkKind.RENDER, 3)
    counted = [api.get("/v1/walks").headers["ratelimit"] for _ in range(2)]
    use(monkeypatch, QUEUE_PREFIX="two:")
    assert celery_app.count_messages(ChunkKind.RENDER) == 0
    celery_app.publish(ChunkKind.RENDER)
    assert api.get("/v1/walks").headers["ratelimit"].split(";")[1] == counted[0].split(";")[1]
    celery_app.app().control.purge()
    use(monkeypatch, QUEUE_PREFIX="one:")
    assert celery_app.count_messages(ChunkKind.RENDER) == 3
    with redis.Redis.from_url(settings().broker_url, decode_responses=True) as broker:
        keys: Any = broker.keys()
    assert {key.split(":")[0] for key in keys} <= {"one", "two", settings().bucket}
