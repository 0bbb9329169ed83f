"""The files of walks if browsers cannot reach the bucket: served from the website's own origin, read-only."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient

from momalisa.local import stack
from momalisa.local.processes import free_port, is_free
from momalisa.local.stack import LocalStack
from momalisa.storage import bucket
from tests.conftest import clear_caches

FILM = bytes(range(256)) * 400


@pytest.fixture
def files(services: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The API of a system on one machine, which reads files from its bucket."""
    from api.app import app  # noqa: PLC0415

    monkeypatch.setenv("BUCKET_PUBLIC_URL", "/files")
    clear_caches()
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def film() -> str:
    """The name of an object in the bucket."""
    name = f"walks/{uuid4()}/{bucket.new_secret()}/walk.mp4"
    bucket.upload(name, FILM, "video/mp4", download_as="a-to-b.mp4")
    return name


def test_a_file_is_served_from_the_website_as_it_is_in_the_bucket(files: TestClient, film: str) -> None:
    url = bucket.url(film, "http://testserver/")
    assert url == f"http://testserver/files/momalisa/{film}"
    answer = files.get(url)
    assert (answer.status_code, answer.content) == (200, FILM)
    expected = {
        "content-type": "video/mp4",
        "content-length": str(len(FILM)),
        "content-disposition": 'attachment; filename="a-to-b.mp4"',
        "cache-control": f"public, {bucket.FOREVER}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
    }
    assert expected.items() <= answer.headers.items()
    assert "access-control-allow-origin" not in answer.headers
    head = files.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(FILM)))


def test_a_browser_gets_the_requested_range_of_a_video(files: TestClient, film: str) -> None:
    part = files.get(f"/files/momalisa/{film}", headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, FILM[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(FILM)}"
    rest = files.get(f"/files/momalisa/{film}", headers={"Range": f"bytes={len(FILM) - 9}-"})
    assert (rest.status_code, rest.content) == (206, FILM[-9:])
    beyond = files.get(f"/files/momalisa/{film}", headers={"Range": f"bytes={len(FILM)}-"})
    assert beyond.status_code == 416


@pytest.mark.parametrize(
    "path",
    [
        "momalisa/",
        "momalisa/walks",
        "momalisa/walks/",
        "momalisa/walks/none/walk.mp4",
        "momalisa/walks/../momalisa",
        "momalisa/walks/%2e%2e/%2e%2e/storage/v1/b",
        "momalisa/walks/..%2f..%2fstorage/v1/b",
        "momalisa/walks//x",
        "momalisa/walks/x%3Fprefix=walks",
        "momalisa/secrets.txt",
        "other/walks/x",
        "storage/v1/b",
    ],
)
def test_only_files_of_walks_are_served(files: TestClient, film: str, path: str) -> None:
    bucket.upload("secrets.txt", b"not of a walk", "text/plain")
    answer = files.get(f"/files/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_files_cannot_be_changed(files: TestClient, film: str, method: str) -> None:
    assert files.request(method, f"/files/momalisa/{film}", content=b"x").status_code == 405
    assert files.get(f"/files/momalisa/{film}").content == FILM


def test_if_browsers_reach_the_bucket_the_api_serves_no_files(api: TestClient, film: str) -> None:
    assert api.get(f"/files/momalisa/{film}").status_code == 404


def test_an_unavailable_bucket_differs_from_a_missing_file(
    files: TestClient, film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    clear_caches()
    answer = files.get(f"/files/momalisa/{film}")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")


def test_pages_do_not_reveal_the_address_of_the_bucket(system: LocalStack) -> None:
    """The emulator obeys every client. Its address is one of millions, so that no page finds it."""
    endpoint = httpx.URL(system.variables["BUCKET_ENDPOINT"])
    page = httpx.get(f"{system.url}/gallery", trust_env=False)
    assert str(endpoint.port) not in page.headers["content-security-policy"] + page.text
    assert "media-src 'self';" in page.headers["content-security-policy"]
    assert re.fullmatch(r"127\.\d+\.\d+\.\d+", endpoint.host)
    for other in ("127.0.0.1", "localhost", "0.0.0.0"):  # noqa: S104 - as a page would try
        with pytest.raises(httpx.ConnectError):
            httpx.get(endpoint.copy_with(host=other), trust_env=False)


def test_the_bucket_keeps_its_address_unless_it_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "bucket-address"
    host, port = stack._bucket_address(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert host != "127.0.0.1"
    assert stack._bucket_address(file) == (host, port)
    assert stack._bucket_address(tmp_path / "another") != (host, port)
    with socket.socket() as taken:
        taken.bind((host, port))
        taken.listen()
        assert not is_free(port, host)
        moved = stack._bucket_address(file)
    assert moved != (host, port)
    assert stack._bucket_address(file) == moved
    file.write_text("nonsense")
    assert stack._bucket_address(file)[1] > 0
