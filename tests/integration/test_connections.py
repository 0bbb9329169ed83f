"""Malformed requests and connection limits, with real sockets."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from api import server
from api.access import COOKIE, GUARDED_COOKIE
from api.app import app
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.local.processes import free_port
from momalisa.settings import settings
from momalisa.walks import service
from tests.clients import ORDER
from tests.conftest import until

Ask = Callable[[bytes], bytes]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Send bytes to the API over a new connection, and return everything received until it was closed."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    port = free_port()
    config = uvicorn.Config(
        app,
        port=port,
        http=server.Protocol,
        timeout_keep_alive=60,
        lifespan="off",
        log_config=None,
        server_header=False,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    until(lambda: running.started or not thread.is_alive())
    assert running.started, "the API does not start"

    def send(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            got = b""
            with suppress(
                BrokenPipeError, ConnectionResetError
            ):  # the server does not read everything that we send
                connection.sendall(request)
                while received := connection.recv(65536):
                    got += received
            return got

    yield send
    running.should_exit = True
    thread.join()


def problem(answer: bytes) -> Any:
    assert b"x-content-type-options: nosniff" in answer
    return json.loads(answer.partition(b"\r\n\r\n")[2])


CLOSE = b"Connection: close\r\n\r\n"


def test_headers_that_never_end_time_out(ask: Ask) -> None:
    assert ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ") == b""
    assert ask(b"") == b""


def test_headers_of_the_next_request_time_out(ask: Ask) -> None:
    answer = ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n" + CLOSE)
    assert answer.count(b'{"status":"ok"}') == 2


def test_endless_headers_are_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 60)
    answer = ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: " + 300_000 * b"a")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


@pytest.fixture
def held(services: object, spec: Callable[..., WalkSpec]) -> bytes:
    """A long poll that lasts longer than a test."""
    with transaction() as session:
        walk = service.create(session, spec(frames=2), public=True, owner="ann").id
    return f"GET /v1/walks/{walk} HTTP/1.1\r\nHost: a\r\nPrefer: wait=30\r\n\r\n".encode()


def test_headers_that_follow_a_running_request_time_out(ask: Ask, held: bytes) -> None:
    assert ask(held + b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ") == b""


def test_endless_headers_that_follow_a_running_request_are_refused(
    ask: Ask, held: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 60)
    assert ask(held + b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: " + 1_000_000 * b"a") == b""


def test_pipelined_requests_are_limited(ask: Ask, held: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 60)
    assert ask(held + 20_000 * b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") == b""


def test_pipelined_requests_do_not_time_out(ask: Ask, held: bytes) -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    answer = ask(held.replace(b"wait=30", b"wait=1") + health + b"\r\n" + health + CLOSE)
    assert (answer.count(b"HTTP/1.1 200 "), answer.count(b'{"status":"ok"}')) == (3, 2)


@pytest.mark.parametrize(
    "hosts",
    [
        *(b"", b"Host: a\r\nHost: a\r\n", b"Host: \r\n", b"Host: a/b\r\n", b"Host: a b\r\n", b"Host: a@b\r\n"),
        *(b"Host: [:::]\r\n", b"Host: [1.2]\r\n", b"Host: a:99999\r\n"),
    ],
)
def test_a_request_has_one_host(ask: Ask, hosts: bytes) -> None:
    answer = ask(b"GET /healthz HTTP/1.1\r\n" + hosts + CLOSE)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert problem(answer)["type"] == "/problems/host-malformed"


@pytest.mark.parametrize("host", [b"momalisa.example", b"127.0.0.1:8000", b"[::1]:8000", b"a_b"])
def test_valid_hosts_are_accepted(ask: Ask, host: bytes) -> None:
    assert ask(b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n" + CLOSE).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": 'a="' + 20_000 * '\\"' + '"'},  # Python's cookie parser takes seconds for it
        {"X-Long": "x" * 8193},
        {f"X-{number}": "x" * 5000 for number in range(7)},
    ],
    ids=["cookie", "one", "all"],
)
def test_oversized_headers_are_refused_before_they_are_parsed(api: TestClient, headers: dict[str, str]) -> None:
    answer = api.get("/v1/walks", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (431, "/problems/headers-too-large")


def test_a_long_url_is_refused(api: TestClient) -> None:
    for address in (f"/v1/walks?q={8192 * 'a'}", f"/{8192 * 'a'}"):
        answer = api.get(address)
        assert (answer.status_code, answer.json()["type"]) == (414, "/problems/url-too-long")


def test_links_use_public_url_and_not_the_host_header(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://momalisa.example/")
    settings.cache_clear()
    made = api.post("/v1/walks", json=ORDER, headers={"Host": "evil.example"})
    api.post("/v1/walks", json=ORDER)
    walk = made.json()["id"]
    assert made.headers["location"] == f"https://momalisa.example/v1/walks/{walk}"
    for path in ("/v1/walks?limit=1", f"/v1/walks/{walk}", f"/walks/{walk}", "/gallery"):
        answer = api.get(path, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
        assert answer.status_code == 200
        assert "evil" not in answer.text + str(answer.headers)
        assert "momalisa.example" in answer.text + str(answer.headers) or path == "/gallery"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:8000",
        "198.18.0.1.evil.example",
        "8.8.8.8",
        "134744072",  # the same URL to a browser
        "0x08080808",
        "[2001:4860:4860::8888]:8000",
        "[::ffff:8.8.8.8]",
    ],
)
def test_without_public_url_no_link_has_a_foreign_host(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("SECURITY_CONTACT", "mailto:security@momalisa.example")
    monkeypatch.setenv("BUCKET_PUBLIC_URL", "/files")
    settings.cache_clear()
    foreign = {"Host": host, "X-Forwarded-Host": host, "Accept": "text/html"}
    made = api.post("/v1/walks", json=ORDER, headers={**foreign, "Origin": f"http://{host}"})
    walk = made.json()["id"]
    assert made.status_code == 202
    assert made.headers["location"] == made.json()["urls"]["self"] == f"/v1/walks/{walk}"
    api.post("/v1/walks", json=ORDER)
    paths = ("/v1/walks?limit=1", f"/v1/walks/{walk}", f"/walks/{walk}", "/gallery", "/.well-known/security.txt")
    for path in (*paths, "/v1/walks/", "/gallery/", "/nowhere", "/openapi.json"):
        answer = api.get(path, headers=foreign, follow_redirects=False)
        assert answer.status_code in {200, 307, 404}
        assert host not in answer.text + str(answer.headers), path


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:8080", "127.0.0.1:8000", "[::1]:8000", "[fe80::1]", "192.168.1.4:8080", "10.0.0.5"),
        *("museum", "Museum:8000", "museum.local", "art.localhost:8000"),
    ],
)
def test_without_public_url_links_of_a_local_machine_are_absolute(api: TestClient, host: str) -> None:
    made = api.post("/v1/walks", json=ORDER, headers={"Host": host})
    assert made.headers["location"] == f"http://{host}/v1/walks/{made.json()['id']}"


@pytest.mark.parametrize("path", ["/gallery/", "/v1/walks/"])
def test_redirects_do_not_use_the_host_header(api: TestClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://momalisa.example")
    settings.cache_clear()
    answer = api.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, path.removesuffix("/"))


def test_idle_connections_outlive_those_of_every_proxy() -> None:
    google = 600  # https://docs.cloud.google.com/load-balancing/docs/https: the keepalive timeout of backends
    assert google < server.KEEP_ALIVE_SECONDS


@pytest.mark.parametrize(
    ("peer", "proto", "https"),
    [
        ("10.0.0.1", "https", True),
        ("10.0.0.1", "http", False),
        ("10.0.0.1", "https, http", False),
        ("10.0.0.1", "javascript", False),
        ("203.0.113.1", "https", False),
    ],
)
def test_the_scheme_of_a_trusted_proxy_is_used(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, peer: str, proto: str, https: bool
) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8")
    settings.cache_clear()
    proxy = TestClient(api.app, client=(peer, 4711))
    answer = proxy.post("/v1/walks", json=ORDER, headers={"X-Forwarded-Proto": proto})
    assert answer.headers["location"].startswith("https:" if https else "http:")
    assert answer.headers["set-cookie"].startswith(f"{GUARDED_COOKIE if https else COOKIE}=")
    assert ("Secure" in answer.headers["set-cookie"]) == https
