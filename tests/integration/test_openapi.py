"""The OpenAPI document keeps its word: whatever is sent, the API answers as it says (schemathesis)."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.app import app

schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.usefixtures("services")
@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_documented(case: Case[Any]) -> None:
    # Left out: that valid data is accepted. No schema can say what a cursor of ours is, or a readable prompt.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
