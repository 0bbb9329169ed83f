"""Problem documents (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api.middleware import request_id
from api.problems import catalog
from api.problems.fields import MAX_DETAIL, MAX_MESSAGE, FieldError, short
from momalisa.errors import (
    InvalidFieldError,
    InvalidKeyError,
    LimitExceededError,
    MomalisaError,
    UnauthorizedError,
)
from momalisa.telemetry.logging import logger

log = logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
CHALLENGE = 'Bearer realm="MoMALisa"'


class Problem(BaseModel):
    """A problem document, as RFC 9457 defines it."""

    type: str = Field(
        description="The problem type: a URI reference that leads to its description.",
        examples=["/problems/walk-not-found"],
    )
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field([], description="The invalid fields, if there are any.")
    request_id: str | None = Field(
        None, description="The `X-Request-Id` of the response; quote it when you report the problem."
    )


def problem(error: MomalisaError, errors: Sequence[FieldError] = ()) -> Problem:
    """Return the problem document of an error, with the invalid fields."""
    kind = catalog.of(error)
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", reason=str(error))
    if isinstance(error, InvalidFieldError):
        errors = [FieldError(field=short(error.field), message=short(error.message, MAX_MESSAGE))]
    return Problem(type=kind.type, title=kind.title, status=kind.status, detail=str(error), errors=list(errors))


def response(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the response for a problem document."""
    problem.request_id = request_id.current()
    problem.detail = short(problem.detail, MAX_DETAIL)
    return JSONResponse(
        problem.model_dump(mode="json", exclude_defaults=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def headers(error: MomalisaError) -> dict[str, str]:
    """Return the headers of the response to an error: how to authenticate, or when to try again."""
    if isinstance(error, InvalidKeyError):  # as RFC 6750 says
        return {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token", error_description="{error}"'}
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": CHALLENGE}
    if isinstance(error, LimitExceededError):
        return {"Retry-After": str(error.retry_after)}
    if catalog.of(error).status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return {}
