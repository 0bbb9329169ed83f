"""HTTP as programs expect it, whatever the route."""

from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from tests.integration.test_api import make

GOT = ["/", "/gallery", "/about", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/walks", "/static/base.css"]


@pytest.mark.parametrize("path", [*GOT, "/v1/walks/{id}", "/walks/{id}", "/v1/walks/7", "/nowhere", "/favicon.ico"])
def test_head_tells_what_get_would_without_the_body(api: TestClient, path: str) -> None:
    path = path.format(id=make(api)["id"])
    got = api.get(path, follow_redirects=False)
    head = api.head(path, follow_redirects=False)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers == got.headers


def test_head_of_a_stream_opens_none(api: TestClient) -> None:
    """The walk is queued for ever here, so that an answer that follows it would never end."""
    path = f"/v1/walks/{make(api)['id']}/events"
    for known in ({}, {"Last-Event-ID": "0"}):
        head = api.head(path, headers=known)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith("text/event-stream")
    assert api.head(f"/v1/walks/{uuid4()}/events").status_code == 404


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/walks", "GET, HEAD, OPTIONS, POST"),
        ("/v1/walks/{id}/cancel", "OPTIONS, POST"),
        ("/v1/walks/{id}/events", "GET, HEAD, OPTIONS"),
        ("/walks", "OPTIONS, POST"),
        ("/walks/{id}", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/static/base.css", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_and_a_wrong_method_tell_which_are_right(api: TestClient, path: str, methods: str) -> None:
    path = path.format(id=uuid4())
    options, wrong = api.options(path), api.put(path)
    assert (options.status_code, options.content, options.headers["allow"]) == (204, b"", methods)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, methods)
    assert wrong.json()["type"] == "/problems/method-not-allowed"
    page = api.put(path, headers={"Accept": "text/html"})
    assert page.headers["allow"] == methods


def test_options_of_what_is_not_there_is_not_found(api: TestClient) -> None:
    assert api.options("/nowhere").status_code == 404
