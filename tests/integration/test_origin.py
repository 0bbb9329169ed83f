"""Pages of other sites cannot change anything on behalf of a visitor."""

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Route

from api.access import COOKIE, GUARDED_COOKIE
from api.app import app
from api.middleware import security_headers
from api.middleware.origin import SAFE_METHODS, OriginGuard
from momalisa.settings import settings
from tests.clients import ORDER, new_client, new_key, submit

FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "http://testserver:81"},
    {"Origin": "http://evil.testserver"},
    {"Origin": "null"},
    {"Origin": "http://[:::]"},
]
OWN = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://testserver"},
    {"Origin": "https://testserver"},  # a proxy terminates TLS
]


def routes(found: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Return the method and a path of every route that changes something."""
    for route in found:
        if isinstance(route, Route | APIRoute):
            path = re.sub(r"\{[^}]+\}", "4f0c2a1e-0000-4000-8000-000000000000", route.path)
            yield from ((method, path) for method in (route.methods or set()) - SAFE_METHODS)
        elif inner := getattr(route, "original_router", None):
            yield from routes(inner.routes)


UNSAFE = sorted(routes(app.routes))


def test_the_routes_that_change_something_are_found() -> None:
    documented = {(m.upper(), p) for p, operations in app.openapi()["paths"].items() for m in operations}
    assert len(UNSAFE) >= sum(method not in SAFE_METHODS for method, _ in documented) + 1  # and the plain form
    assert {("POST", "/v1/walks"), ("POST", "/walks")} <= set(UNSAFE)


@pytest.mark.parametrize(("method", "path"), UNSAFE, ids=" ".join)
def test_a_page_of_another_site_changes_nothing(api: TestClient, method: str, path: str) -> None:
    for headers in FOREIGN:
        answer = api.request(method, path, json=ORDER, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/foreign-origin"), headers
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_our_own_pages_and_programs_are_allowed(api: TestClient, headers: dict[str, str]) -> None:
    for method, path in UNSAFE:
        assert api.request(method, path, json=ORDER, headers=headers).status_code != 403, (method, path)


def test_a_browser_gets_a_page_that_explains_the_refusal(api: TestClient) -> None:
    answer = api.post("/walks", headers={**FOREIGN[0], "Accept": "text/html"})
    assert (answer.status_code, "Sent by another site" in answer.text) == (403, True)


def test_public_url_is_our_own_origin(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://Momalisa.example/")
    settings.cache_clear()
    assert api.post("/v1/walks", json=ORDER, headers={"Origin": "https://momalisa.example"}).status_code == 202
    assert api.post("/v1/walks", json=ORDER, headers={"Origin": "https://x.example"}).status_code == 403


def test_a_request_with_an_api_key_is_allowed_from_any_page(api: TestClient) -> None:
    program = new_client(api, new_key())
    assert {program.post("/v1/walks", json=ORDER, headers=headers).status_code for headers in FOREIGN} == {202}


def test_a_page_of_cors_origins_neither_uses_nor_changes_the_cookie(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = submit(api, public=False)
    cookie = api.cookies[COOKIE]
    monkeypatch.setenv("CORS_ORIGINS", "https://museum.example")
    settings.cache_clear()
    listed = {"Origin": "https://museum.example", "Sec-Fetch-Site": "cross-site"}
    made = api.post("/v1/walks", json=ORDER, headers=listed)
    assert (made.status_code, made.headers.get("set-cookie")) == (202, None)
    assert api.post(f"/v1/walks/{mine}/cancel", headers=listed).status_code == 404
    assert api.cookies[COOKIE] == cookie
    assert [walk["id"] for walk in api.get("/v1/walks?mine=true").json()["walks"]] == [mine]
    unlisted = {**listed, "Origin": "https://x.example"}
    assert api.post("/v1/walks", json=ORDER, headers=unlisted).status_code == 403


def test_over_https_no_subdomain_can_set_the_cookie(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(api)
    given_before = f"{COOKIE}={api.cookies[COOKIE]}"
    monkeypatch.setenv("PUBLIC_URL", "https://momalisa.example")
    settings.cache_clear()
    walk = submit(new_client(api), public=False)
    answer = new_client(api).post("/v1/walks", json={**ORDER, "public": False})
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert cookie.startswith(f"{GUARDED_COOKIE}=")
    assert {"Secure", "Path=/", "HttpOnly", "SameSite=lax"} <= set(attributes)
    assert "Domain" not in answer.headers["set-cookie"]
    guarded = cookie.partition("=")[2]

    def seen(cookies: str, path: str = f"/v1/walks/{answer.json()['id']}") -> int:
        return new_client(api).get(path, headers={"Cookie": cookies}).status_code

    assert seen(cookie) == 200
    assert seen(f"{cookie}; {given_before}") == 200  # a sibling host's cookie has no effect
    assert seen(f"{COOKIE}={guarded}") == 404  # an attacker's own cookie can be set under neither name
    assert seen(cookie, f"/v1/walks/{walk}") == 404


def test_a_cookie_without_the_guarded_name_is_still_accepted(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = submit(api, public=False)
    before = {"Cookie": f"{COOKIE}={api.cookies[COOKIE]}"}
    monkeypatch.setenv("PUBLIC_URL", "https://momalisa.example")
    settings.cache_clear()
    visitor = new_client(api)
    assert visitor.get(f"/v1/walks/{mine}", headers=before).status_code == 200
    answer = visitor.post("/v1/walks", json=ORDER, headers=before)
    renamed = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    assert renamed["Cookie"].startswith(GUARDED_COOKIE)
    assert new_client(api).get(f"/v1/walks/{mine}", headers=renamed).status_code == 200


def test_a_page_of_cors_origins_can_read_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://museum.example")
    settings.cache_clear()
    guarded = FastAPI()
    guarded.add_middleware(OriginGuard)
    security_headers.install(guarded)
    origin = {"Origin": "https://museum.example", "Sec-Fetch-Site": "cross-site"}
    answer = TestClient(guarded).post("/nowhere", headers=origin)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, origin["Origin"])
    settings.cache_clear()
