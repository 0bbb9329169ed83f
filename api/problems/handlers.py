"""Exception handlers: every error becomes a problem document, or a page for a browser."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middleware import methods, security_headers
from api.problems import catalog, documents
from api.problems.fields import MAX_DETAIL, FieldError, field_errors, short
from api.response_headers import response_headers
from api.web import templates
from momalisa.errors import InvalidJsonError, InvalidRequestError, MethodNotAllowedError, MomalisaError


def install(app: FastAPI) -> None:
    """Register the exception handlers of an app."""
    app.add_exception_handler(MomalisaError, _momalisa_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


class RefusedRequests:
    """Handles errors of the middleware inside; the exception handlers get only those of routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        try:
            await self._app(scope, receive, send)
        except MomalisaError as error:
            await _response(scope, error)(scope, receive, send)


class UnexpectedErrors:
    """Handles unexpected errors, inside of the middleware that adds headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; the server logs the error."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if not started and scope["type"] == "http":
                await _response(scope, _unexpected_error())(scope, receive, send)
            raise


def _response(scope: Scope, error: MomalisaError, errors: Sequence[FieldError] = ()) -> Response:
    """Return the response to an error: a page for a browser, else a problem document."""
    request = Request(scope)
    headers = documents.headers(error)
    if templates.accepts_html(request):
        kind = catalog.of(error)
        return _page(request, kind.status, kind.title, short(str(error), MAX_DETAIL), headers)
    return documents.response(documents.problem(error, errors), headers)


def _page(request: Request, status: int, title: str, detail: str, headers: Mapping[str, str]) -> Response:
    page = templates.problem_page(request, status=status, title=title, detail=detail)
    page.headers.update(headers)
    return page


async def _momalisa_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MomalisaError)
    return _response(request.scope, error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        reason = found[0]["ctx"]["error"]
        return _invalid_json(
            f"The body of the request must be a JSON object: {reason} at character {found[0]['loc'][-1]}."
        )
    errors = field_errors({**item, "loc": item["loc"][1:]} for item in found)  # after "body", "path" or "query"
    detail = short("; ".join(f"{item.field}: {item.message}" for item in errors), MAX_DETAIL - 20)
    detail += f"; and {len(found) - len(errors)} more." if len(found) > len(errors) else "."
    if templates.accepts_html(request):
        return _page(request, HTTPStatus.UNPROCESSABLE_ENTITY, "This address is not quite right", detail, {})
    return documents.response(documents.problem(InvalidRequestError(detail), errors))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.BAD_REQUEST:  # raised by the framework for a body that is not UTF-8
        return _invalid_json("The body of the request must be a JSON object, in UTF-8.")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = methods.allowed(request.scope)  # the framework lists only those of one route
        response = _response(
            request.scope, MethodNotAllowedError(f"{request.url.path} supports {allowed}, got {request.method}.")
        )
        response.headers["Allow"] = allowed
        return response
    headers = error.headers or {}
    if templates.accepts_html(request):
        detail = "Nothing hangs at this address." if status == HTTPStatus.NOT_FOUND else status.description
        return _page(request, status, status.phrase, detail, headers)
    kind = catalog.of_status(status)
    problem = documents.Problem(
        type=kind.type,
        title=kind.title,
        status=status,
        detail=f"{request.method} {request.url.path}: {status.description or status.phrase}.",
    )
    return documents.response(problem, dict(headers))


def _invalid_json(detail: str) -> Response:
    return documents.response(documents.problem(InvalidJsonError(detail)))


def _unexpected_error() -> MomalisaError:
    return MomalisaError("An unexpected error occurred. It is logged; please try again.")


async def _unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    response = _response(request.scope, _unexpected_error())
    for name, value in {**security_headers.HEADERS, **response_headers(request.scope)}.items():
        response.headers.setdefault(name, value)  # sent outside of the middleware that adds them
    return response
