"""The protocol between a render worker and the container behind an endpoint."""

import json
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import ValidationError

from momalisa.domain.dense import Check
from momalisa.domain.pins import MadeWith
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.queue.leases import Key
from momalisa.queue.results import FlaggedFrame, UploadedFrame
from momalisa.settings import Settings, settings
from momalisa.storage.bucket import StoredObject
from worker.rendering.batch import Batch, RenderRequest
from worker.vertex import client, server
from worker.vertex.client import Instance, Parameters, PredictRequest

ENDPOINT = "projects/p/locations/europe-west4/endpoints/7"


@pytest.fixture
def set_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that changes settings during a test."""

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()

    yield change
    monkeypatch.undo()
    settings.cache_clear()


class Credentials:
    """A stand-in for Google's credentials."""

    def __init__(self) -> None:
        self.refreshed = 0
        self.valid = False

    @property
    def token(self) -> str:
        return f"token-{self.refreshed}"

    def refresh(self, _: object) -> None:
        self.refreshed += 1
        self.valid = True


def test_a_shared_endpoint_has_its_regions_url_and_a_dedicated_one_its_own(
    set_to: Callable[..., None],
) -> None:
    set_to(VERTEX_ENDPOINT=ENDPOINT)
    assert client.predict_url() == f"https://europe-west4-aiplatform.googleapis.com/v1/{ENDPOINT}:predict"
    set_to(VERTEX_URL="https://7.europe-west4-1.prediction.vertexai.goog/")
    assert client.predict_url() == f"https://7.europe-west4-1.prediction.vertexai.goog/v1/{ENDPOINT}:predict"


def test_an_expired_token_is_refreshed(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials()
    monkeypatch.setattr(client, "default_credentials", lambda: credentials)
    assert client.auth_headers("https://x/") == {"Authorization": "Bearer token-1"}
    assert client.auth_headers("https://x/") == {"Authorization": "Bearer token-1"}
    credentials.valid = False
    assert client.auth_headers("https://x/") == {"Authorization": "Bearer token-2"}


def test_no_token_goes_over_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "default_credentials", Credentials)
    assert client.auth_headers("http://127.0.0.1:1/") == {}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "86400"}, client.MAX_RETRY_AFTER),
        ({"Retry-After": "soon"}, 5),
        ({}, 5),
    ],
)
def test_retry_after_is_respected_within_limits(headers: dict[str, str], seconds: float) -> None:
    reply = httpx.Response(503, headers=headers)
    assert client.retry_delay(reply, 5.0) == seconds


def test_retry_after_may_be_a_date() -> None:
    reply = httpx.Response(503, headers={"Retry-After": formatdate(time.time() + 200, usegmt=True)})
    assert client.retry_delay(reply, 5.0) == pytest.approx(200, abs=60)


def test_vertex_as_the_renderer_needs_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDERER", "vertex")
    with pytest.raises(ValidationError, match="needs VERTEX_ENDPOINT"):
        Settings()
    monkeypatch.setenv("VERTEX_ENDPOINT", "endpoints/7")
    with pytest.raises(ValidationError, match="vertex_endpoint"):
        Settings()


KEY = Key(0.0, StoredObject("walks/x.png", 9, "AAAAAA=="), "a")


def test_a_request_survives_conversion_of_numbers_to_doubles(spec: Callable[..., WalkSpec]) -> None:
    """Vertex AI forwards requests as protobuf values, which have no integers."""
    sent = PredictRequest(
        instances=[Instance(position=1 / 3, to_upload=True)],
        parameters=Parameters(
            batch_size=8,
            walk_id=uuid4(),
            secret="s" * 32,
            model="m",
            spec=spec(seed=2**64 - 1),
            seconds=9,
            interpolated=True,
            keys=(KEY, KEY._replace(position=1.0)),
        ),
    )

    def doubled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: doubled(part) for name, part in value.items()}
        if isinstance(value, list):
            return [doubled(part) for part in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    assert PredictRequest.model_validate_json(json.dumps(doubled(json.loads(sent.model_dump_json())))) == sent


MADE_WITH = MadeWith(revision="r", dtype="float32", device="cpu")


def test_every_instance_gets_one_prediction_in_its_place(spec: Callable[..., WalkSpec]) -> None:
    request = RenderRequest(uuid4(), "s", "m", spec(), (0.0, 0.25, 0.5, 1.0), frozenset({0.25, 0.5, 1.0}), 8)
    check = Check(start=0, end=1, mean=0.25, block=2)
    made = UploadedFrame(0.25, KEY.stored, b"looks", "b", interpolated=True, latents=True, check=check)
    batch = Batch(("a", "b", "c", "d"), [made, FlaggedFrame(1.0, Flag.UNSAFE)], ["Long."], MADE_WITH, 4, True)
    company, shown, conflicting, flagged = server.response(request, batch).predictions
    assert (company.object, company.flagged, company.conflict) == (None, None, False)
    assert (shown.object, shown.bytes, shown.crc32c) == ("gs://momalisa/walks/x.png", 9, "AAAAAA==")
    assert (shown.interpolated, shown.latents, shown.check) == (True, True, check)
    assert (company.interpolated, company.latents, company.check) == (True, False, None)
    assert (conflicting.object, conflicting.conflict) == (None, True)
    assert (flagged.object, flagged.flagged) == (None, Flag.UNSAFE)
    assert [frame.content_hash for frame in (company, shown, conflicting, flagged)] == ["a", "b", "c", "d"]
    assert (company.warnings, company.made_with, company.batch_size) == (["Long."], MADE_WITH, 4)
