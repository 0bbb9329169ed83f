"""Liveness and readiness of the API."""

from http import HTTPStatus

from fastapi import APIRouter
from pydantic import BaseModel

from api.docs import examples
from api.problems.openapi import problem_responses
from momalisa.db import schema
from momalisa.db.session import transaction
from momalisa.errors import StoreUnavailableError

router = APIRouter(tags=["Health"])

OK = examples.content({"status": "ok"})


class Health(BaseModel):
    """The response of a successful check."""

    status: str = "ok"


@router.get("/healthz", summary="Liveness", responses={HTTPStatus.OK.value: OK})
def healthz() -> Health:
    """Return 200 while the process responds."""
    return Health()


@router.get(
    "/readyz",
    summary="Readiness",
    responses={HTTPStatus.OK.value: OK, **problem_responses(StoreUnavailableError)},
)
def readyz() -> Health:
    """Return 200 while the database can be reached and has its tables; submitting a walk needs no broker."""
    with transaction() as session:
        schema.check(session)
    return Health()


def not_ready() -> str | None:
    """Return why `/readyz` fails, or None if it does not."""
    try:
        readyz()
    except StoreUnavailableError as error:
        return str(error)
    return None
