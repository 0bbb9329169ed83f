"""Whether the API is alive, and whether it can do its work."""

from http import HTTPStatus

from fastapi import APIRouter
from pydantic import BaseModel

from api.docs import examples
from api.problems.openapi import problem_responses
from momalisa.db import schema
from momalisa.db.session import transaction
from momalisa.errors import StoreUnavailableError

router = APIRouter(tags=["Health"])

OK = examples.shown({"status": "ok"})


class Health(BaseModel):
    """All is well."""

    status: str = "ok"


@router.get("/healthz", summary="Is the process alive?", responses={HTTPStatus.OK.value: OK})
def healthz() -> Health:
    """Answer as long as the process does."""
    return Health()


@router.get(
    "/readyz",
    summary="Can walks be taken?",
    responses={HTTPStatus.OK.value: OK, **problem_responses(StoreUnavailableError)},
)
def readyz() -> Health:
    """Answer 200 while the database can be reached and has its tables; the broker is not needed to take a walk."""
    with transaction() as session:
        schema.check(session)
    return Health()


def not_ready() -> str | None:
    """Return why `/readyz` fails, or None while it does not."""
    try:
        readyz()
    except StoreUnavailableError as error:
        return str(error)
    return None
