"""The types of problems: for each error that reaches a client its HTTP status, type, title, meaning and advice.

The `type` of a problem document leads to its entry here (`api.routes.problems`).
"""

from functools import cache
from http import HTTPStatus

from pydantic import BaseModel

from momalisa import errors
from momalisa.errors import MomalisaError

PATH = "/problems/"


class ProblemType(BaseModel):
    """A type of problem."""

    type: str
    title: str
    status: int
    meaning: str
    advice: str


def _entry(status: HTTPStatus, slug: str, title: str, meaning: str, advice: str = "") -> ProblemType:
    return ProblemType(
        type=PATH + slug, title=title, status=status, meaning=meaning, advice=advice or _usual_advice(status)
    )


def _usual_advice(status: HTTPStatus) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return (
            "The fault is ours, not yours. Try again later; if it persists, send the X-Request-Id of the answer to "
            "an operator of this site."
        )
    return "Read the detail of the problem, change the request accordingly, and send it again."


CATALOG: dict[type[MomalisaError], ProblemType] = {
    MomalisaError: _entry(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "Something went wrong on our side",
        "The server failed in a way that it did not expect.",
    ),
    errors.InvalidJsonError: _entry(
        HTTPStatus.BAD_REQUEST,
        "invalid-json",
        "The body is not JSON",
        "The body of the request is not JSON.",
        "Send a JSON object in UTF-8; the detail names the character at which parsing failed.",
    ),
    errors.WalkNotFoundError: _entry(
        HTTPStatus.NOT_FOUND,
        "walk-not-found",
        "No such walk",
        "There is no walk with this id.",
        "Check the id. Only its owner sees a walk that is not public: send the API key or cookie that made it.",
    ),
    errors.WalkExpiredError: _entry(
        HTTPStatus.GONE,
        "walk-expired",
        "The walk has expired",
        "The walk is past its retention, and its files are gone.",
        "Make it again: the same prompts, seed and settings on the same model give the same pictures.",
    ),
    errors.FrameNotThereError: _entry(
        HTTPStatus.NOT_FOUND,
        "frame-not-there",
        "No such frame yet",
        "The walk has no such frame, or it is not rendered yet.",
        "Poll the walk; each of its frames has a URL once it is rendered.",
    ),
    errors.ArtifactNotThereError: _entry(
        HTTPStatus.NOT_FOUND,
        "artifact-not-there",
        "No such file yet",
        "The walk has no such file, or not yet.",
        "Poll the walk until it has succeeded; `artifacts` then lists its files.",
    ),
    errors.MethodNotAllowedError: _entry(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "Not a method of this path",
        "The path does not support this method.",
        "The Allow header of the answer lists the methods of the path.",
    ),
    errors.IdempotencyKeyError: _entry(
        HTTPStatus.BAD_REQUEST,
        "idempotency-key-malformed",
        "The idempotency key is malformed",
        "The Idempotency-Key header is malformed.",
        "Send 1 to 255 visible ASCII characters, such as a random UUID.",
    ),
    errors.IdempotencyKeyReusedError: _entry(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "The idempotency key belongs to another request",
        "The same Idempotency-Key came with another request.",
        "Draw a new key for each new request, and keep it for sending the very same request again.",
    ),
    errors.UnauthorizedError: _entry(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "A valid API key is needed",
        "The request needs an API key and has none, or its key is not valid.",
        "Send a valid key as `Authorization: Bearer …`. An operator of this site makes keys, by `momalisa keys "
        "create`.",
    ),
    errors.NotOwnerError: _entry(
        HTTPStatus.FORBIDDEN,
        "not-owner",
        "Not your walk",
        "Everybody may see the walk, but only its owner may do this.",
        "Send the API key or the cookie with which the walk was made.",
    ),
    errors.ForeignOriginError: _entry(
        HTTPStatus.FORBIDDEN,
        "foreign-origin",
        "Sent by another site",
        "A page of another site sent a request that changes something, without an API key.",
        "Send the request from a page of this site, or from a program with an API key.",
    ),
    errors.TooLargeError: _entry(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        "The request is too large",
        "The body of the request is too large.",
        "Send less: a walk of ten long prompts fits many times over.",
    ),
    errors.UnsupportedMediaTypeError: _entry(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "The content type is not supported here",
        "The Content-Type of the request is missing, or not one that this path accepts.",
        "Send the Content-Type that the detail names; the Accept-Post header of the answer lists all.",
    ),
    errors.TooLargeHeadersError: _entry(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "The headers are too large",
        "A header of the request, or all of them together, are too large.",
        "Send fewer or smaller headers; old cookies of this site may be the cause.",
    ),
    errors.TooLongAddressError: _entry(
        HTTPStatus.REQUEST_URI_TOO_LONG,
        "address-too-long",
        "The address is too long",
        "The path and the query of the request are too long.",
        "Ask for less at once.",
    ),
    errors.HostError: _entry(
        HTTPStatus.BAD_REQUEST,
        "host-malformed",
        "The host is malformed",
        "The Host header of the request is missing, malformed, or there is more than one.",
        "Send one `Host` header, as every HTTP library does.",
    ),
    errors.TooSlowError: _entry(
        HTTPStatus.REQUEST_TIMEOUT,
        "too-slow",
        "The request came too slowly",
        "The request took too long to arrive.",
        "Send the request again, at once and whole.",
    ),
    errors.LimitExceededError: _entry(
        HTTPStatus.TOO_MANY_REQUESTS,
        "limit-exceeded",
        "Too much at once",
        "The caller is over one of its limits.",
        "Wait for as many seconds as Retry-After says, then try again. RateLimit and RateLimit-Policy show what is "
        "left before a limit is reached.",
    ),
    errors.WalkOverError: _entry(
        HTTPStatus.CONFLICT,
        "walk-over",
        "The walk is over",
        "The walk has ended, so it can no longer be changed in this way.",
        "Nothing is left to do: read the walk to see how it ended.",
    ),
    errors.InvalidRequestError: _entry(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        "The request is not valid",
        "Some fields of the request are not valid.",
        "The list `errors` names each field that is wrong and what it must be.",
    ),
    errors.StoreUnavailableError: _entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "Not available just now",
        "The database, or the bucket of the files, cannot be reached just now.",
        "Try again after as many seconds as Retry-After says. Nothing that was made is lost.",
    ),
    errors.StoreBusyError: _entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store-busy",
        "Too busy just now",
        "The database canceled a query that took too long or conflicted with another.",
    ),
    errors.TooManyWaitError: _entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "too-many-wait",
        "Too many requests wait",
        "Too many requests wait for walks on this server just now.",
        "Read the walk without waiting, or try again after as many seconds as Retry-After says.",
    ),
    errors.WebhooksOffError: _entry(
        HTTPStatus.NOT_FOUND,
        "webhooks-off",
        "No webhooks here",
        "This server sends no webhooks, because it has no secret to sign them with.",
        "Poll the walk instead, or follow its events; an operator turns webhooks on by WEBHOOK_SECRET.",
    ),
}
"""Errors without an entry of their own have that of the class they derive from."""


def of(error: MomalisaError | type[MomalisaError]) -> ProblemType:
    """Return the problem type of an error."""
    kind = error if isinstance(error, type) else type(error)
    return next(CATALOG[each] for each in kind.__mro__ if each in CATALOG)


def slug(problem: ProblemType) -> str:
    """Return the last part of a problem's `type`."""
    return problem.type.removeprefix(PATH)


def of_status(status: HTTPStatus) -> ProblemType:
    """Return the problem type of a plain HTTP status, as the framework raises it."""
    name = status.phrase.lower().replace(" ", "-").replace("'", "")
    return _entry(status, name, status.phrase, f"{status.description or status.phrase}.")


@cache
def by_slug() -> dict[str, ProblemType]:
    """Return all problem types by the last part of their `type`: of plain statuses, and of our own errors."""
    plain = [of_status(status) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST]
    return {slug(each): each for each in (*plain, *CATALOG.values())}
