"""Clients of the API: visitors and programs with keys, and the walk that they submit."""

from typing import Any

from fastapi.testclient import TestClient

from momalisa import api_keys
from momalisa.db.session import transaction
from tests.walk_files import Reply

ORDER = {"prompts": ["a giraffe", "a battleship"], "frames": 16, "seed": 7}


def new_client(api: TestClient, secret: str | None = None) -> TestClient:
    """Return another client of the same API, without cookies."""
    return TestClient(api.app, headers={"Authorization": f"Bearer {secret}"} if secret else {})


def new_key(*, revoked: bool = False) -> str:
    """Create an API key, and return its secret."""
    with transaction() as session:
        key, secret = api_keys.create(session, "a test")
        if revoked:
            api_keys.revoke(session, key.id)
    return secret


def accepted(client: TestClient, order: Reply) -> Reply:
    """Submit a walk, which must be accepted, and return it."""
    answer = client.post("/v1/walks", json=order)
    assert answer.status_code == 202, answer.text
    walk: Reply = answer.json()
    return walk


def submit(client: TestClient, **changes: Any) -> str:
    """Submit a walk, which must be accepted, and return its id."""
    return str(accepted(client, {**ORDER, **changes})["id"])
