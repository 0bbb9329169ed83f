"""Whatever is sent, the API answers as its OpenAPI document says (schemathesis).

A hundred cases for each operation, and twenty sequences; `make test LONG=1` makes it six times as many.
"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from pydantic import BaseModel
from schemathesis import Case, Response
from schemathesis.config import (
    ChecksConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)

from api.app import app
from api.docs import examples, openapi
from api.schemas import views
from momalisa.domain.states import WebhookEvent
from tests.clients import new_key
from tests.conftest import empty

OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, operations in app.openapi()["paths"].items()
    for method, operation in operations.items()
]

# A schema cannot express which texts are readable, which hosts are public, that every stop needs a frame, and
# which cursors are ours: a request may match the schema and still be refused with 422. And without a key or a
# cookie there is no webhook secret, hence 401.
ACCEPTED = PositiveDataAcceptanceConfig(expected_statuses=["2xx", "304", "307", "401", "404", "409", "422"])
schema = schemathesis.openapi.from_asgi(
    "/openapi.json",
    app,
    config=SchemathesisConfig(
        projects=ProjectsConfig(default=ProjectConfig(checks=ChecksConfig(positive_data_acceptance=ACCEPTED)))
    ),
)
anything_goes = settings(deadline=None, suppress_health_check=list(HealthCheck))


@schemathesis.check
def problem_is_documented(context: object, response: Response, case: Case[Any]) -> None:
    """Check that the operation documents this type of problem for this status."""
    documented = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    shown = documented.get("content", {}).get("application/problem+json", {}).get("examples", {})
    if response.status_code >= 400:
        assert response.json()["type"].removeprefix("/problems/") in shown


@pytest.mark.usefixtures("services")
@schema.parametrize()
@anything_goes
def test_every_operation_answers_as_documented(case: Case[Any]) -> None:
    case.call_and_validate()


@pytest.mark.usefixtures("services")
def test_sequences_of_operations_answer_as_documented() -> None:
    # A stream ends with its walk, and no worker runs here.
    machine: Any = schema.exclude(operation_id="follow_walk").as_state_machine()

    class Program(machine):  # type: ignore[misc]
        def setup(self) -> None:
            empty()  # else the same steps would not give the same responses
            self.secret = new_key()

        def get_call_kwargs(self, _: Case[Any]) -> dict[str, Any]:
            return {"headers": {"Authorization": f"Bearer {self.secret}"}}

    Program.run(settings=settings(anything_goes, max_examples=settings().max_examples // 5))


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_every_operation_is_documented_with_an_example_and_its_problems(
    name: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert all(parameter["description"] for parameter in operation.get("parameters", []))
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            shown = content.get("example") or content.get("examples")
            if kind == "application/problem+json":
                assert {example["value"]["status"] for example in shown.values()} == {int(status)}
            else:
                assert shown, (status, kind)


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (views.WalkView, examples.WALK),
        (views.WalkView, examples.QUEUED),
        (views.WalkView, examples.CANCELED),
        (views.WalkPage, examples.PAGE),
    ],
)
def test_the_examples_match_the_schemas(model: type[BaseModel], example: dict[str, Any]) -> None:
    assert model.model_validate(example).model_dump(mode="json") == example


def test_the_document_has_what_code_generators_need() -> None:
    document = app.openapi()
    assert document["servers"]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert document["info"]["contact"]["url"].startswith("https://")
    assert document["components"]["securitySchemes"]["visitor"]["in"] == "cookie"
    for name, operation in OPERATIONS:
        assert {"405", "500"} <= operation["responses"].keys(), name
        assert ("408" in operation["responses"]) == (not name.startswith("GET")), name
        for status, answer in operation["responses"].items():
            assert "X-Request-Id" in answer["headers"], (name, status)
            assert ("RateLimit" in answer["headers"]) == ("security" in operation), (name, status)
            assert "Retry-After" in answer["headers"] or status not in {"429", "503"}, (name, status)


def test_the_document_describes_webhooks() -> None:
    document = app.openapi()
    assert list(document["webhooks"]) == [event.value for event in WebhookEvent]
    for event, posted in document["webhooks"].items():
        example = posted["post"]["requestBody"]["content"]["application/json"]["example"]
        assert openapi.WebhookMessage.model_validate(example).type == event
        assert [header["name"] for header in posted["post"]["parameters"]] == list(openapi.SIGNATURE_HEADERS)
