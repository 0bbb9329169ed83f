"""NGINX in front of the API: its configuration, and the two at work."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from momalisa.client import Client
from momalisa.local import stack
from momalisa.local.processes import Child, free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT
from tests.conftest import until
from tests.infra.nginx import START_SECONDS, answers, serving, weaknesses

NGINX = ROOT / "infra" / "nginx"
HELD_SECONDS = 12

SECURITY = ("content-security-policy", "referrer-policy", "x-content-type-options")
"""What every answer says to browsers, once."""


def configured(
    folder: Path, *, port: int = 8080, api: str = "127.0.0.1:8000", bucket: str = "127.0.0.1:4443"
) -> Path:
    """Write NGINX's configuration for this machine instead of a container, and return its file."""
    text = (NGINX / "nginx.conf.template").read_text()
    for theirs, ours in {
        "${API}": api,
        "${NGINX_LOCAL_RESOLVERS}": "127.0.0.1",
        "listen 8080": f"listen 127.0.0.1:{port}",
        "/tmp/": f"{folder}/",  # noqa: S108
        "/dev/stdout": f"{folder}/access.log",
        "/dev/stderr": f"{folder}/error.log",
        "/app/frontend": str(ROOT / "frontend"),
        "root /app;": f"root {NGINX};",
        "/app/hold.js": f"{folder}/hold.js",
        "/etc/nginx/server.d/*.conf": f"{folder}/bucket.conf",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    (folder / "bucket.conf").write_text((NGINX / "bucket.conf").read_text().replace("bucket:4443", bucket))
    script = (NGINX / "hold.js").read_text()
    assert "SECONDS = 60;" in script
    (folder / "hold.js").write_text(script.replace("SECONDS = 60;", f"SECONDS = {HELD_SECONDS};"))
    file = folder / "nginx.conf"
    file.write_text(text)
    return file


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    output = subprocess.run(
        ["nginx", "-t", "-c", configured(tmp_path)], check=False, stderr=subprocess.PIPE, text=True
    ).stderr
    assert "test is successful" in output
    assert "[warn]" not in output


def test_the_configuration_has_no_known_weakness(tmp_path: Path) -> None:
    assert weaknesses(configured(tmp_path)) == []


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The whole system, as behind a proxy, with one worker."""
    variables = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "BUCKET_PUBLIC_URL": "/storage",
        "RATE_LIMITS": "on",
        "REQUESTS_PER_MINUTE": "100",
    }
    folder = tmp_path_factory.mktemp("system")
    with stack.started(LocalStack(folder, port=free_port(), workers=1, variables=variables)) as running:
        yield running


@pytest.fixture(scope="module")
def url(system: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of NGINX in front of the system."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    bucket = urlsplit(system.variables["BUCKET_ENDPOINT"]).netloc
    file = configured(folder, port=port, api=urlsplit(system.url).netloc, bucket=bucket)
    user = "user root; " if os.geteuid() == 0 else ""
    with serving(file, f"{user}daemon off;", f"http://127.0.0.1:{port}") as url:
        yield url


def status_of_the_very_path(url: str, path: str) -> int:
    """Return how a path is answered that a client would tidy up before it asks."""
    with httpx.Client() as client:
        request = httpx.Request("GET", url, extensions={"target": path.encode()})
        return client.send(request).status_code


@pytest.mark.parametrize("path", ["/", "/gallery", "/about", "/docs", "/openapi.json", "/healthz", "/v1/walks"])
def test_what_the_api_answers_is_passed_on_with_its_headers(path: str, url: str, system: LocalStack) -> None:
    through, direct = httpx.get(url + path), httpx.get(system.url + path)
    assert through.status_code == direct.status_code == httpx.codes.OK
    assert through.headers["content-type"] == direct.headers["content-type"]
    for name in (*SECURITY, "cache-control"):
        assert through.headers.get_list(name) == direct.headers.get_list(name), name


@pytest.mark.parametrize(
    "path", ["base.css", "make.js", "favicon.svg", "figure.webp", "fonts/eb-garamond-latin-wght-normal.woff2"]
)
def test_files_of_the_website_are_served_as_the_api_would(path: str, url: str, system: LocalStack) -> None:
    through, direct = httpx.get(f"{url}/static/{path}"), httpx.get(f"{system.url}/static/{path}")
    assert through.content == direct.content
    assert through.headers["server"] == "nginx"
    for name in (*SECURITY, "cache-control"):
        assert through.headers.get_list(name) == direct.headers.get_list(name), name
    assert (
        through.headers["content-type"].split(";")[0].replace("application/javascript", "text/javascript")
        == (direct.headers["content-type"].split(";")[0])
    )
    again = httpx.get(f"{url}/static/{path}", headers={"If-None-Match": through.headers["etag"]})
    assert again.status_code == httpx.codes.NOT_MODIFIED


def test_a_file_that_is_not_there_is_a_problem_that_the_api_tells(url: str) -> None:
    answer = httpx.get(f"{url}/static/no-such.css")
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert answer.headers["content-type"] == "application/problem+json"


def test_nothing_beside_the_files_of_the_website_is_served(url: str) -> None:
    for path in ("/static/../pages/base.html", "/static/%2e%2e/pages/base.html", "/static../pages/base.html"):
        assert status_of_the_very_path(url, path) == httpx.codes.NOT_FOUND, path
    assert httpx.get(f"{url}/errors/503.html").status_code == httpx.codes.NOT_FOUND


def test_events_arrive_when_they_happen(url: str) -> None:
    """The stream ends only when the walk does, so an event that is held back until then never comes here."""
    with Client(url) as client:
        walk = client.submit(["a giraffe", "a battleship"], frames=240, steps=100)
        events = f"{url}/v1/walks/{walk['id']}/events"
        with httpx.stream("GET", events, timeout=60) as stream:
            updates = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
            assert not next(updates)["done"]
            client.cancel(walk["id"])
            *_, last = updates
            assert last["status"] == "canceled"


@pytest.mark.parametrize("size", [600_000, 700_000])
def test_a_body_that_is_too_large_is_the_same_problem_whoever_finds_it(size: int, url: str) -> None:
    answer = httpx.post(f"{url}/v1/walks", content=b" " * size, headers={"Content-Type": "application/json"})
    assert answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["type"], answer.json()["status"]) == ("/problems/too-large", 413)
    assert "524288 bytes" in answer.json()["detail"]
    for name in SECURITY:
        assert len(answer.headers.get_list(name)) == 1, name


def raw(url: str, request: bytes) -> httpx.Response:
    """Return the answer to bytes that no client would send."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, b"GET /v1/walks HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"),
        (
            403,
            b"PUT /storage/momalisa/walks/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        (413, b"POST /v1/walks HTTP/1.1\r\nHost: a\r\nContent-Length: 700000\r\nConnection: close\r\n\r\n"),
        (414, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * 9000 + b"\r\nConnection: close\r\n\r\n"),
    ],
)
def test_what_nginx_itself_refuses_is_a_problem_like_any_other(url: str, status: int, request_: bytes) -> None:
    answer = raw(url, request_)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert problem["status"] == status
    assert httpx.get(url + problem["type"]).json()["title"] == problem["title"]
    for name in (*SECURITY, "x-request-id"):
        assert len(answer.headers.get_list(name)) == 1, name
    assert "retry-after" not in answer.headers


def test_a_file_takes_the_methods_that_the_api_says(url: str) -> None:
    wrong = httpx.post(f"{url}/static/base.css")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert wrong.json()["type"] == "/problems/method-not-allowed"
    assert httpx.options(f"{url}/static/base.css").headers["allow"] == "GET, HEAD, OPTIONS"


def test_limits_hold_for_the_address_that_is_there_and_not_for_the_one_that_is_claimed(url: str) -> None:
    with (
        httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as one,
        httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.3")) as other,
    ):

        def ask(client: httpx.Client, claimed: str) -> int:
            return client.get(f"{url}/v1/walks", headers={"X-Forwarded-For": claimed}).status_code

        statuses = [ask(one, f"203.0.113.{number}") for number in range(1, 110)]
        assert statuses[0] == httpx.codes.OK
        assert statuses[-1] == httpx.codes.TOO_MANY_REQUESTS
        assert ask(other, "127.0.0.2") == httpx.codes.OK


def test_files_of_walks_come_from_the_bucket_and_nothing_else_does(url: str, system: LocalStack) -> None:
    with Client(url) as client:
        for walk in client.walk(["a giraffe", "a battleship"], frames=2, steps=1):  # noqa: B007 - the last one counts
            pass
    gif = walk["artifacts"]["gif"]["url"]
    assert gif.startswith(f"{url}/storage/momalisa/walks/{walk['id']}/")
    answer = httpx.get(gif)
    assert answer.content[:6] == b"GIF89a"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-disposition"].startswith("attachment")
    redirect = httpx.get(f"{url}/v1/walks/{walk['id']}/frames/0")
    assert httpx.get(redirect.headers["location"]).content[:4] == b"\x89PNG"
    for method in ("PUT", "POST", "DELETE"):
        assert httpx.request(method, gif).status_code == httpx.codes.FORBIDDEN
    for path in ("/storage/momalisa", "/storage/momalisa/", "/storage/storage/v1/b", "/storage/momalisa/walks/../"):
        assert status_of_the_very_path(url, path) == httpx.codes.NOT_FOUND, path


@contextmanager
def away(system: LocalStack) -> Iterator[Child]:
    """Run a block while there is no API; wait for it afterwards, if the block did not."""
    api = system.children["api"]
    api.signal_stop()
    api.wait_stopped(time.monotonic() + START_SECONDS)
    try:
        yield api
    finally:
        if api.ended() is not None:
            api.start()
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{system.url}/readyz"):
            assert time.monotonic() < deadline, api.last_lines()
            time.sleep(0.1)


WALK = {"prompts": ["a", "b"], "frames": 2, "steps": 1}


def test_an_api_that_stays_away_is_told_after_a_while(url: str, system: LocalStack) -> None:
    with away(system), ThreadPoolExecutor() as pool:
        begin = time.monotonic()
        posted = pool.submit(httpx.post, f"{url}/v1/walks", json=WALK, headers={"Accept": "*/*"}, timeout=60)
        shown = pool.submit(httpx.get, f"{url}/gallery", headers={"Accept": "text/html,*/*"}, timeout=60)
        problem, page = posted.result(), shown.result()
        assert HELD_SECONDS <= time.monotonic() - begin < HELD_SECONDS + 5
        assert problem.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.headers["retry-after"]
        assert problem.json()["type"] == "/problems/unavailable"
        assert page.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert page.headers["content-type"].startswith("text/html")
        assert "closed for a moment" in page.text
        assert httpx.get(f"{url}/static/base.css").status_code == httpx.codes.OK


def test_requests_wait_for_an_api_that_comes_back(url: str, system: LocalStack) -> None:
    before = walks(system)
    with away(system) as api, ThreadPoolExecutor() as pool:
        posted = pool.submit(httpx.post, f"{url}/v1/walks", json=WALK, timeout=60)
        shown = pool.submit(httpx.get, f"{url}/gallery", timeout=60)
        until(lambda: posted.running() and shown.running())
        api.start()
        assert posted.result().status_code == httpx.codes.ACCEPTED
        assert shown.result().status_code == httpx.codes.OK
    assert walks(system) == before + 1


def test_a_walk_that_the_api_may_have_read_is_not_submitted_again(url: str, system: LocalStack) -> None:
    before = walks(system)
    with away(system) as api, socket.create_server(tuple_of(system.url)) as reader, ThreadPoolExecutor() as pool:
        posted = pool.submit(httpx.post, f"{url}/v1/walks", json=WALK, timeout=60)
        shown = pool.submit(httpx.get, f"{url}/gallery", timeout=60)
        connections = [reader.accept()[0] for _ in range(2)]
        assert all(connection.recv(65536) for connection in connections)
        for connection in connections:  # by something that ends without an answer, after it has read both
            connection.close()
        reader.close()
        assert posted.result().status_code == httpx.codes.SERVICE_UNAVAILABLE
        api.start()
        assert shown.result().status_code == httpx.codes.OK
    assert walks(system) == before


def walks(system: LocalStack) -> int:
    """Return how many walks there are."""
    with Client(system.url) as client:
        return len(client.page()["walks"])


def tuple_of(url: str) -> tuple[str, int]:
    """Return the address of a URL as sockets want it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port
