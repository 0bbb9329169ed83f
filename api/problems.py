"""Errors as problem documents (RFC 9457), which name the field and the limit."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.docs import problem_types
from api.middleware import methods, request_id, security_headers
from api.web import templates
from momalisa.errors import (
    InvalidFieldError,
    InvalidJsonError,
    InvalidKeyError,
    InvalidRequestError,
    LimitExceededError,
    MethodNotAllowedError,
    MomalisaError,
    UnauthorizedError,
)
from momalisa.telemetry.logging import logger

log = logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
CHALLENGE = 'Bearer realm="MoMALisa"'

# What an answer says of what is wrong is bounded, however much is: with these, a problem document has at most 8 kB.
MOST_ERRORS = 20
MOST_ERROR_BYTES = 4500
MOST_DETAIL = 700
MOST_MESSAGE = 300
MOST_GOT = 80


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(examples=["prompts[0]"])
    message: str = Field(examples=["at most 300 characters, got 400"])


class Problem(BaseModel):
    """A problem document, as RFC 9457 defines it."""

    type: str = Field(
        description="A URI reference that names the kind of problem, and leads to what it means.",
        examples=["/problems/walk-not-found"],
    )
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field([], description="The fields that are wrong, if that is the problem.")
    request_id: str | None = Field(
        None, description="The `X-Request-Id` of the answer: name it when you ask an operator about it."
    )


def responses(*errors: type[MomalisaError]) -> dict[int | str, dict[str, Any]]:
    """Return what an operation's documentation says about its problems: an example of each type, by status."""
    by_status: dict[HTTPStatus, list[type[MomalisaError]]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error)
    return {
        status.value: {
            "description": "; ".join(error.title for error in found) + ".",
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {error.type: {"value": _example(error)} for error in found},
                }
            },
        }
        for status, found in by_status.items()
    }


def document(operation: dict[str, Any], *errors: type[MomalisaError]) -> None:
    """Add problems to an operation of the OpenAPI document, beside those of the same status."""
    for status, described in responses(*errors).items():
        known = operation["responses"].setdefault(str(status), described)
        if known is not described:
            content = known["content"][MEDIA_TYPE]
            content["examples"] = {**content["examples"], **described["content"][MEDIA_TYPE]["examples"]}
            known["description"] = f"{known['description'].removesuffix('.')}; {described['description']}"


def _example(error: type[MomalisaError]) -> dict[str, Any]:
    problem = Problem(
        type=_reference(error), title=error.title, status=error.status, detail=problem_types.meaning(error)
    )
    return problem.model_dump(mode="json", exclude_defaults=True)


def _reference(error: MomalisaError | type[MomalisaError]) -> str:
    return problem_types.PATH + error.type


def install(app: FastAPI) -> None:
    """Make an app answer every error with a problem document."""
    app.add_exception_handler(MomalisaError, _momalisa_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    problem.request_id = request_id.current()
    problem.detail = short(problem.detail, MOST_DETAIL)
    return JSONResponse(
        problem.model_dump(mode="json", exclude_defaults=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def problem(error: MomalisaError, errors: Sequence[FieldError] = ()) -> Problem:
    """Return the problem document that tells an error to a client, with the fields that are wrong."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", reason=str(error))
    if isinstance(error, InvalidFieldError):
        errors = [FieldError(field=short(error.field), message=short(error.message, MOST_MESSAGE))]
    return Problem(
        type=_reference(error), title=error.title, status=error.status, detail=str(error), errors=list(errors)
    )


def response(error: MomalisaError, errors: Sequence[FieldError] = ()) -> JSONResponse:
    """Return the answer to a request that fails: a problem document."""
    return _answer(problem(error, errors), _headers(error))


def _headers(error: MomalisaError) -> dict[str, str]:
    if isinstance(error, InvalidKeyError):  # as RFC 6750 says
        return {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token", error_description="{error}"'}
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": CHALLENGE}
    if isinstance(error, LimitExceededError):
        return {"Retry-After": str(error.retry_after)}
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return {}


def response_to(scope: Scope, error: MomalisaError) -> Response:
    """Return the answer to a request that fails: a page for people with a browser, else a problem document."""
    request = Request(scope)
    if templates.accepts_html(request):
        shown = templates.problem_page(
            request, status=error.status, title=error.title, detail=short(str(error), MOST_DETAIL)
        )
        shown.headers.update(_headers(error))
        return shown
    return response(error)


async def _momalisa_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MomalisaError)
    return response_to(request.scope, error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        reason = found[0]["ctx"]["error"]
        return response(
            InvalidJsonError(
                f"The body of the request must be a JSON object: {reason} at character {found[0]['loc'][-1]}."
            )
        )
    errors = field_errors({**item, "loc": item["loc"][1:]} for item in found)  # after "body", "path" or "query"
    detail = short("; ".join(f"{item.field}: {item.message}" for item in errors), MOST_DETAIL - 20)
    detail += f"; and {len(found) - len(errors)} more." if len(found) > len(errors) else "."
    if templates.accepts_html(request):
        return templates.problem_page(
            request,
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            title="This address is not quite right",
            detail=detail,
        )
    return response(InvalidRequestError(detail), errors)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.BAD_REQUEST:  # the framework's word for a body that is not even text
        return response(InvalidJsonError("The body of the request must be a JSON object, in UTF-8."))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = methods.allowed(request.scope)  # the framework names those of one route alone
        refusal = MethodNotAllowedError(f"{request.url.path} takes {allowed}, got {request.method}.")
        refused = await _momalisa_error(request, refusal)
        refused.headers["Allow"] = allowed
        return refused
    headers = dict(error.headers or {})
    if templates.accepts_html(request):
        detail = "Nothing hangs at this address." if status == HTTPStatus.NOT_FOUND else status.description
        shown = templates.problem_page(request, status=status, title=status.phrase, detail=detail)
        shown.headers.update(headers)
        return shown
    problem = Problem(
        type=problem_types.PATH + problem_types.slug(status),
        title=status.phrase,
        status=status,
        detail=f"{request.method} {request.url.path}: {status.description or status.phrase}.",
    )
    return _answer(problem, headers)


class UnexpectedErrors:
    """Answers what the application did not foresee, where the answer gets the headers of every other one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection; the server logs the error."""
        begun = False

        async def send_and_see(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        except Exception:
            if not begun and scope["type"] == "http":
                await response_to(scope, _unforeseen())(scope, receive, send)
            raise


def _unforeseen() -> MomalisaError:
    return MomalisaError("An error that we did not foresee. It is logged; please try again.")


async def _unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    unforeseen = response_to(request.scope, _unforeseen())
    for name, value in {**security_headers.HEADERS, **security_headers.answer_headers(request.scope)}.items():
        unforeseen.headers.setdefault(name, value)  # it is sent outside of the middleware that adds them
    return unforeseen


def field_errors(found: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """Return what pydantic found wrong, in plain words, with the name of each field; of much only the first."""
    errors: list[FieldError] = []
    room = MOST_ERROR_BYTES
    for item in islice(found, MOST_ERRORS):
        error = FieldError(field=_field(item["loc"]), message=_message(item))
        room -= len(error.model_dump_json().encode())
        if room < 0:
            break
        errors.append(error)
    return errors


def short(sent: object, most: int = MOST_GOT) -> str:
    """Return what a caller sent as far as it is worth repeating: its first characters, as far as they print."""
    text = sent if isinstance(sent, str) else repr(sent)
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text[:most])
    return shown if len(text) <= most else f"{shown[:-1]}…"


def _field(location: tuple[int | str, ...]) -> str:
    """Write a location such as ("prompts", 0) the way people do: prompts[0]."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return short(name.lstrip(".")) or "body"


_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a field that is known here",
    "string_too_long": "at most {max_length} characters, got {length}",
    "string_too_short": "must not be empty",
    "too_short": "at least {min_length} are needed, got {actual_length}",
    "too_long": "at most {max_length} are allowed, got {actual_length}",
    "greater_than_equal": "at least {ge}, got {got}",
    "greater_than": "more than {gt:g}, got {got}",
    "less_than_equal": "at most {le}, got {got}",
    "literal_error": "must be {expected}, got {quoted}",
    "multiple_of": "must be a multiple of {multiple_of}, got {got}",
    "value_error": "{error}",
    "uuid_parsing": "must be an id such as 123e4567-e89b-42d3-a456-426614174000, got {quoted}",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "model_attributes_type": "must be a JSON object",
}
"""What a field must be and what it was, in plain words, by pydantic's type of error."""


def _message(item: Mapping[str, Any]) -> str:
    got = item.get("input")
    if template := _MESSAGES.get(item["type"]):
        said = {"got": short(got), "quoted": repr(short(got)) if isinstance(got, str) else short(got)}
        length = len(got) if isinstance(got, str) else 0
        return short(template.format_map({**item.get("ctx", {}), **said, "length": length}), MOST_MESSAGE)
    message = str(item["msg"])
    return short(message[0].lower() + message[1:], MOST_MESSAGE)
