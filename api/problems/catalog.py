"""The problem types: HTTP status, type, title, meaning and advice for each error that reaches a client.

The `type` of a problem document is the URL of its description (`api.routes.problems`).
"""

from functools import cache
from http import HTTPStatus

from pydantic import BaseModel

from momalisa import errors
from momalisa.errors import MomalisaError

PATH = "/problems/"


class ProblemType(BaseModel):
    """A problem type."""

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
            "This is an error of the server. Try again later; if it persists, send the X-Request-Id of the "
            "response to an operator of this site."
        )
    return "Read the detail of the problem, change the request accordingly, and send it again."


CATALOG: dict[type[MomalisaError], ProblemType] = {
    MomalisaError: _entry(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "Something went wrong on our side",
        "An unexpected error occurred in the server.",
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
        "Check the id. A private walk is visible to its owner only: send the API key or cookie that created it.",
    ),
    errors.WalkExpiredError: _entry(
        HTTPStatus.GONE,
        "walk-expired",
        "The walk has expired",
        "The walk is past its retention, and its files are gone.",
        "Create it again: the same prompts, seed and settings give the same pictures on the same model.",
    ),
    errors.FrameNotFoundError: _entry(
        HTTPStatus.NOT_FOUND,
        "frame-not-found",
        "No such frame yet",
        "The walk has no such frame, or it has not been rendered yet.",
        "Poll the walk; each of its frames has a URL once it is rendered.",
    ),
    errors.ArtifactNotFoundError: _entry(
        HTTPStatus.NOT_FOUND,
        "artifact-not-found",
        "No such file yet",
        "The walk does not have this file, or not yet.",
        "Poll the walk until it has succeeded; `artifacts` then lists its files.",
    ),
    errors.MethodNotAllowedError: _entry(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "Method not supported",
        "The path does not support this method.",
        "The Allow header of the response lists the methods of the path.",
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
        "The Idempotency-Key was used before, for another request.",
        "Use a new key for each new request, and the same key only to send the same request again.",
    ),
    errors.UnauthorizedError: _entry(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "A valid API key is needed",
        "The request needs an API key, and has none or an invalid one.",
        "Send a valid key as `Authorization: Bearer …`. Operators create keys by `momalisa keys create`.",
    ),
    errors.WalkPrivateError: _entry(
        HTTPStatus.UNAUTHORIZED,
        "walk-private",
        "The walk is private",
        "The walk is private, so it is not described for other sites (oEmbed).",
        "Link to its page instead, or make it public first: `PATCH /v1/walks/{id}`.",
    ),
    errors.FormatNotSupportedError: _entry(
        HTTPStatus.NOT_IMPLEMENTED,
        "format-not-supported",
        "The format is not supported",
        "The path has no answer in the format that the request names.",
        "Ask for a format that the detail names.",
    ),
    errors.NotOwnerError: _entry(
        HTTPStatus.FORBIDDEN,
        "not-owner",
        "Not your walk",
        "The walk is public, but only its owner may do this.",
        "Send the API key or cookie that created the walk.",
    ),
    errors.ForeignOriginError: _entry(
        HTTPStatus.FORBIDDEN,
        "foreign-origin",
        "Sent by another site",
        "A page of another site sent a request that changes data, without an API key.",
        "Send the request from a page of this site, or from a program with an API key.",
    ),
    errors.BodyTooLargeError: _entry(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        "The request is too large",
        "The body of the request is too large.",
        "Send less: even a walk with ten long prompts needs only a fraction of the limit.",
    ),
    errors.UnsupportedMediaTypeError: _entry(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "The content type is not supported",
        "The Content-Type of the request is missing, or this path does not accept it.",
        "Send a Content-Type that the detail names.",
    ),
    errors.HeadersTooLargeError: _entry(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "The headers are too large",
        "One header of the request is too large, or all of them together.",
        "Send fewer or smaller headers; old cookies of this site may be the cause.",
    ),
    errors.UrlTooLongError: _entry(
        HTTPStatus.REQUEST_URI_TOO_LONG,
        "url-too-long",
        "The address is too long",
        "The path and query of the request are too long.",
        "Shorten the query.",
    ),
    errors.InvalidHostError: _entry(
        HTTPStatus.BAD_REQUEST,
        "host-malformed",
        "The host is malformed",
        "The Host header of the request is missing, repeated or malformed.",
        "Send one `Host` header, as every HTTP library does.",
    ),
    errors.SlowRequestError: _entry(
        HTTPStatus.REQUEST_TIMEOUT,
        "too-slow",
        "The request was too slow",
        "The body of the request took too long to arrive.",
        "Send the request again, without pauses.",
    ),
    errors.LimitExceededError: _entry(
        HTTPStatus.TOO_MANY_REQUESTS,
        "limit-exceeded",
        "Too much at once",
        "The caller has reached a limit.",
        "Wait for the number of seconds in Retry-After, then try again. RateLimit and RateLimit-Policy show what "
        "remains of the limits that were checked. When a walk ends, the daily budgets get back what it did not "
        "compute, such as the denoising of interpolated frames.",
    ),
    errors.WalkEndedError: _entry(
        HTTPStatus.CONFLICT,
        "walk-ended",
        "The walk has ended",
        "The walk has ended, so this can no longer be done.",
        "Read the walk to see how it ended.",
    ),
    errors.InvalidRequestError: _entry(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        "The request is not valid",
        "Some fields of the request are not valid.",
        "The list `errors` names each invalid field, and says what it must be.",
    ),
    errors.StoreUnavailableError: _entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "Temporarily unavailable",
        "The database or the bucket is temporarily unavailable.",
        "Try again after the number of seconds in Retry-After. No walks are lost.",
    ),
    errors.StoreBusyError: _entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store-busy",
        "Too busy",
        "The database canceled a query that took too long or conflicted with another.",
    ),
    errors.TooManyWaitersError: _entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "too-many-waiters",
        "Too many waiting requests",
        "This server has reached its maximum of open streams and long polls.",
        "Read the walk without waiting, or try again after the number of seconds in Retry-After.",
    ),
    errors.WebhooksOffError: _entry(
        HTTPStatus.NOT_FOUND,
        "webhooks-off",
        "Webhooks are off",
        "This server sends no webhooks, because it has no secret to sign them with.",
        "Poll the walk or follow its events instead. Operators turn webhooks on by setting WEBHOOK_SECRET.",
    ),
}
"""By error class; an error without an entry has that of its base class."""


def of(error: MomalisaError | type[MomalisaError]) -> ProblemType:
    """Return the problem type of an error."""
    kind = error if isinstance(error, type) else type(error)
    return next(CATALOG[each] for each in kind.__mro__ if each in CATALOG)


def slug(problem: ProblemType) -> str:
    """Return the last part of a problem's `type`."""
    return problem.type.removeprefix(PATH)


def of_status(status: HTTPStatus) -> ProblemType:
    """Return the problem type of an HTTP status that the framework raises."""
    name = status.phrase.lower().replace(" ", "-").replace("'", "")
    return _entry(status, name, status.phrase, f"{status.description or status.phrase}.")


@cache
def by_slug() -> dict[str, ProblemType]:
    """Return all problem types, of HTTP statuses and of our own errors, by the last part of their `type`."""
    plain = [of_status(status) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST]
    return {slug(each): each for each in (*plain, *CATALOG.values())}
