"""Who may do what: API keys, visitors and other visitors, with real PostgreSQL."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select, update
from typer.testing import CliRunner

from api.access import COOKIE
from api.app import app
from momalisa import api_keys
from momalisa.cli import main
from momalisa.db.models import ApiKey, Artifact, Chunk, Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind, WalkStatus
from momalisa.local import stack
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, environment, settings
from tests.clients import ORDER, new_client, new_key, submit
from tests.conftest import clear_caches


def read(client: TestClient, walk_id: str) -> Response:
    return client.get(f"/v1/walks/{walk_id}")


def read_again(client: TestClient, walk_id: str) -> Response:
    return client.get(f"/v1/walks/{walk_id}", headers={"If-None-Match": "*"})


def follow(client: TestClient, walk_id: str) -> Response:
    with transaction() as session:  # a stream goes on until its walk is done
        session.execute(update(Walk).where(Walk.id == walk_id).values(status=WalkStatus.FAILED))
    return client.get(f"/v1/walks/{walk_id}/events")


def get_frame(client: TestClient, walk_id: str) -> Response:
    with transaction() as session:
        recorded = {"object": "x", "bytes": 1, "crc32c": "AAAAAA==", "rendered_at": func.now()}
        session.execute(update(Frame).where(Frame.walk_id == walk_id).values(**recorded))
    return client.get(f"/v1/walks/{walk_id}/frames/0", follow_redirects=False)


def get_artifact(client: TestClient, walk_id: str) -> Response:
    with transaction() as session:
        made = {"object": "x", "bytes": 1, "crc32c": "AAAAAA==", "width": 8, "height": 8}
        session.merge(Artifact(walk_id=UUID(walk_id), kind=ArtifactKind.GIF, **made))
    return client.get(f"/v1/walks/{walk_id}/artifacts/gif", follow_redirects=False)


def get_webhook_secret(client: TestClient, walk_id: str) -> Response:
    return client.get("/v1/webhook-secret")


def cancel(client: TestClient, walk_id: str) -> Response:
    return client.post(f"/v1/walks/{walk_id}/cancel")


def hide(client: TestClient, walk_id: str) -> Response:
    return client.patch(f"/v1/walks/{walk_id}", json={"public": False})


def remove(client: TestClient, walk_id: str) -> Response:
    return client.delete(f"/v1/walks/{walk_id}")


def make_one(client: TestClient, walk_id: str) -> Response:
    return client.post("/v1/walks", json=ORDER)


def look_at_all(client: TestClient, walk_id: str) -> Response:
    return client.get("/v1/walks")


def look_at_mine(client: TestClient, walk_id: str) -> Response:
    return client.get("/v1/walks?mine=true")


CALLERS = ("owner", "another key", "stranger", "another visitor", "revoked key")

ALLOWED: list[tuple[Callable[[TestClient, str], Response], bool, tuple[int, ...]]] = [
    # what, on a public walk?, the status for each of CALLERS
    (read, True, (200, 200, 200, 200, 401)),
    (read, False, (200, 404, 404, 404, 401)),
    (read_again, True, (304, 304, 304, 304, 401)),
    (read_again, False, (304, 404, 404, 404, 401)),
    (follow, True, (200, 200, 200, 200, 401)),
    (follow, False, (200, 404, 404, 404, 401)),
    (get_frame, True, (307, 307, 307, 307, 401)),
    (get_frame, False, (307, 404, 404, 404, 401)),
    (get_artifact, True, (307, 307, 307, 307, 401)),
    (get_artifact, False, (307, 404, 404, 404, 401)),
    (get_webhook_secret, True, (200, 200, 401, 200, 401)),
    (cancel, True, (200, 403, 403, 403, 401)),
    (cancel, False, (200, 404, 404, 404, 401)),
    (hide, True, (200, 403, 403, 403, 401)),
    (hide, False, (200, 404, 404, 404, 401)),
    (remove, True, (204, 403, 403, 403, 401)),
    (remove, False, (204, 404, 404, 404, 401)),
    (make_one, True, (202, 202, 202, 202, 401)),
    (look_at_all, True, (200, 200, 200, 200, 401)),
    (look_at_all, False, (200, 200, 200, 200, 401)),
    (look_at_mine, True, (200, 200, 200, 200, 401)),
    (look_at_mine, False, (200, 200, 200, 200, 401)),
]


@pytest.mark.parametrize("owner_has_a_key", [True, False], ids=["owned by a key", "owned by a visitor"])
@pytest.mark.parametrize(
    ("operation", "public", "statuses"),
    ALLOWED,
    ids=[f"{operation.__name__}-{'public' if public else 'private'}" for operation, public, _ in ALLOWED],
)
def test_each_caller_may_do_what_the_table_says(
    api: TestClient,
    operation: Callable[[TestClient, str], Response],
    public: bool,
    statuses: tuple[int, ...],
    owner_has_a_key: bool,
) -> None:
    visitor = new_client(api)
    submit(visitor)
    callers = {
        "owner": new_client(api, new_key() if owner_has_a_key else None),
        "another key": new_client(api, new_key()),
        "stranger": new_client(api),
        "another visitor": visitor,
        "revoked key": new_client(api, new_key(revoked=True)),
    }
    walk_id = submit(callers["owner"], public=public)
    for caller, status in reversed(list(zip(CALLERS, statuses, strict=True))):  # the owner last, who can cancel
        answer = operation(callers[caller], walk_id)
        assert answer.status_code == status, (caller, answer.text)
        if operation in {look_at_all, look_at_mine} and status == 200:
            shown = walk_id in [walk["id"] for walk in answer.json()["walks"]]
            assert shown == (public if operation is look_at_all else caller == "owner"), caller
        if status == 404:
            unknown = read(callers["stranger"], str(uuid4())).json()
            own = {name: answer.json()[name] for name in ("detail", "request_id")}
            assert answer.json() == {**unknown, **own}


def test_the_table_names_every_operation() -> None:
    named = {operation.__name__ for operation, *_ in ALLOWED}
    paths = app.openapi()["paths"].keys() - {"/v1/models"}  # the same for every caller
    documented = [path for path in paths if path.startswith("/v1/")]
    operations = sum(len(app.openapi()["paths"][path]) for path in documented)
    assert len(named) == operations + 2  # one's own walks, and a conditional request


def test_a_key_that_is_revoked_between_two_polls_is_refused_at_the_second(api: TestClient) -> None:
    with transaction() as session:
        key, secret = api_keys.create(session, "a test")
    client = new_client(api, secret)
    walk_id = submit(client, public=False)
    assert read_again(client, walk_id).status_code == 304
    with transaction() as session:
        api_keys.revoke(session, key.id)
    assert read_again(client, walk_id).status_code == 401
    assert read(client, str(uuid4())).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer momalisa_" + "x" * 43,
        "Bearer momalisa_" + "é" * 43,
        "Basic YTpi",
        "momalisa_" + "x" * 43,
    ],
)
def test_an_invalid_key_is_refused_and_not_treated_as_anonymous(api: TestClient, header: str) -> None:
    submit(api)
    for method, path in (("GET", "/v1/walks"), ("POST", "/v1/walks"), ("GET", f"/v1/walks/{uuid4()}")):
        answer = api.request(method, path, json=ORDER, headers={b"Authorization": header.encode()})
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="MoMALisa"')
        refused = 'error="invalid_token", error_description="The API key' in challenge
        assert refused == header.startswith("Bearer")


def test_two_keys_in_one_request_are_refused(api: TestClient) -> None:
    secrets = [("Authorization", f"Bearer {new_key()}") for _ in range(2)]
    assert api.get("/v1/walks", headers=secrets).status_code == 401


def test_a_key_takes_precedence_over_a_cookie(api: TestClient) -> None:
    walk_id = submit(api, public=False)
    assert read(api, walk_id).status_code == 200
    with_both = api.get(f"/v1/walks/{walk_id}", headers={"Authorization": f"Bearer {new_key()}"})
    assert with_both.status_code == 404


def test_a_visitor_gets_a_cookie_with_the_first_walk_and_keeps_it(api: TestClient) -> None:
    assert "set-cookie" not in api.get("/v1/walks").headers
    first, second = (api.post("/v1/walks", json=ORDER) for _ in range(2))
    cookie = first.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age="))
    assert "Secure" not in cookie
    assert "set-cookie" not in second.headers
    mine = [walk["id"] for walk in api.get("/v1/walks?mine=true").json()["walks"]]
    assert mine == [second.json()["id"], first.json()["id"]]


def test_over_https_the_cookie_is_secure(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://momalisa.example")
    settings.cache_clear()
    assert "Secure" in api.post("/v1/walks", json=ORDER).headers["set-cookie"]


def test_a_cookie_stays_valid_as_long_as_its_secret_key_is_listed(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = "o" * 32, "n" * 32

    def mine(*keys: str) -> int:
        monkeypatch.setenv("SECRET_KEYS", ",".join(keys))
        settings.cache_clear()
        return len(api.get("/v1/walks?mine=true").json()["walks"])

    assert mine(old) == 0
    api.post("/v1/walks", json=ORDER)
    assert [mine(old), mine(new, old), mine(new)] == [1, 1, 0]


def test_a_forged_cookie_is_ignored(api: TestClient) -> None:
    walk_id = submit(api, public=False)
    visitor, signature = api.cookies[COOKIE].split(".")
    for forged in (f"{visitor}.{signature[:-2]}AA", f"x.{signature}", visitor):
        assert (
            new_client(api).get(f"/v1/walks/{walk_id}", headers={"Cookie": f"{COOKIE}={forged}"}).status_code == 404
        )


def test_dropping_the_cookie_does_not_shorten_the_queue(api: TestClient) -> None:
    walks = [submit(new_client(api)) for _ in range(3)]
    submit(new_client(api, new_key()))
    with transaction() as session:
        owners = session.scalars(select(Walk.owner).where(Walk.id.in_(walks))).all()
        counts = session.execute(select(Chunk.tenant, func.count()).group_by(Chunk.tenant)).all()
    tenants = {tenant: chunks for tenant, chunks in counts}  # noqa: C416
    assert len(set(owners)) == 3
    assert tenants.pop("address:testclient") == 3
    assert [tenant.split(":")[0] for tenant in tenants] == ["key"]


def test_creating_walks_can_be_restricted_to_api_keys(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANONYMOUS", "false")
    settings.cache_clear()
    refused = api.post("/v1/walks", json=ORDER)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="MoMALisa"')
    assert "set-cookie" not in refused.headers
    assert api.get("/v1/walks").status_code == 200
    submit(new_client(api, new_key()))


def test_the_command_line_creates_lists_and_revokes_keys(api: TestClient) -> None:
    run = CliRunner().invoke
    made = run(main.app, ["keys", "create", "the gallery"])
    key_id, secret = made.output.split()[0], made.output.split()[-1]
    client = new_client(api, secret)
    assert client.get("/v1/walks").status_code == 200
    listed = run(main.app, ["keys", "list"]).output
    assert f"{key_id} the gallery" in listed
    assert secret not in listed
    assert "is revoked" in run(main.app, ["keys", "revoke", key_id]).output
    assert client.get("/v1/walks").status_code == 401
    assert "revoked 20" in run(main.app, ["keys", "list"]).output
    unknown = run(main.app, ["keys", "revoke", str(uuid4())])
    assert (unknown.exit_code, "There is no API key" in unknown.output) == (1, True)


def test_a_key_is_valid_until_it_expires_even_for_polls(api: TestClient) -> None:
    run = CliRunner().invoke
    made = run(main.app, ["keys", "create", "the guest", "--expires", "90d"])
    key_id, secret = made.output.split()[0], made.output.split()[-1]
    client = new_client(api, secret)
    walk_id = submit(client, public=False)
    assert read_again(client, walk_id).status_code == 304
    with transaction() as session:
        key = session.get_one(ApiKey, UUID(key_id))
        assert key.expires_at is not None
        assert key.expires_at - key.created_at == timedelta(days=90)
        key.expires_at = func.now()
    assert read_again(client, walk_id).status_code == 401
    assert client.get("/v1/walks").status_code == 401
    assert ", expires 20" in run(main.app, ["keys", "list"]).output


@pytest.mark.parametrize("expires", ["0d", "90", "soon", "2020-01-31", "2027-02-30"])
def test_a_key_that_has_already_expired_is_not_created(api: TestClient, expires: str) -> None:
    made = CliRunner().invoke(main.app, ["keys", "create", "the guest", "--expires", expires])
    assert made.exit_code != 0
    with transaction() as session:
        assert not api_keys.list_keys(session)


def test_commands_for_operators_find_the_system_on_this_machine(
    services: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings().database_url
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setattr(stack, "running_database", lambda: here)
    clear_caches()
    made = CliRunner().invoke(main.app, ["keys", "create", "an operator's"])
    assert "is the id of the key" in made.output
    with transaction() as session:
        assert [key.name for key in api_keys.list_keys(session)] == ["an operator's"]


def test_the_database_does_not_know_the_secret(services: LocalStack) -> None:
    secret = new_key()
    with transaction() as session:
        row = session.scalars(select(ApiKey)).one()
        kept = " ".join(str(value) for value in vars(row).values())
    assert isinstance(row.id, UUID)
    assert secret not in kept
    assert secret.removeprefix(api_keys.PREFIX) not in kept


VISITS = """
import sys
from fastapi.testclient import TestClient
from api.app import app
from momalisa.settings import settings
from momalisa.walks import service

key, revoked = sys.argv[1:]
api = TestClient(app, raise_server_exceptions=False)
order = {"prompts": ["a cat", "a castle"], "frames": 2}
for secret in (key, revoked, "momalisa_malformed"):
    api.post("/v1/walks", json=order, headers={"Authorization": f"Bearer {secret}"})
api.post("/v1/walks", json=order)
print("COOKIE", api.cookies["visitor"])
service.create = lambda *_, **__: 1 / 0
for headers in ({}, {"Authorization": f"Bearer {key}"}):
    try:
        TestClient(app).post("/v1/walks", json=order, headers=headers)
    except ZeroDivisionError:
        import logging
        logging.getLogger("server").exception("unforeseen")
logging.getLogger("settings").warning("%r %s", settings(), settings())
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_secrets_are_never_logged(services: LocalStack, log_format: str) -> None:
    key, revoked = new_key(), new_key(revoked=True)
    secrets = {
        "SECRET_KEYS": "a-secret-for-cookies-" + "x" * 20,
        "BROKER_URL": "redis://:a-broker-password@127.0.0.1:1",
    }
    database = settings().database_url.replace("momalisa@", "momalisa:a-database-password@")
    run = subprocess.run(
        [sys.executable, "-c", VISITS, key, revoked],
        cwd=ROOT,
        env=environment(**secrets, DATABASE_URL=database, RATE_LIMITS="on", LOG_FORMAT=log_format),
        capture_output=True,
        text=True,
        check=True,
    )
    cookie = run.stdout.split()[-1]
    for event in (
        "walk queued",
        "limits are not counted",
        "messages not published",
        "ZeroDivisionError",
        "SecretStr",
    ):
        assert event in run.stderr
    hidden = ("momalisa_malformed", "a-secret-for-cookies", "a-broker-password", "a-database-password")
    for secret in (key, revoked, cookie, *hidden):
        assert secret not in run.stderr
