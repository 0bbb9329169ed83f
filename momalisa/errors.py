"""One hierarchy of errors; each knows the HTTP status and the problem type that tell it to a client."""

from http import HTTPStatus


class MomalisaError(Exception):
    """Something that MoMALisa knows how to explain to the caller."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type = "internal"
    title = "Something went wrong on our side"


class InvalidJsonError(MomalisaError):
    """The body of the request is not JSON.

    Send a JSON object in UTF-8; the detail says at which character it breaks.
    """

    status = HTTPStatus.BAD_REQUEST
    type = "invalid-json"
    title = "The body is not JSON"


class WalkNotFoundError(MomalisaError):
    """There is no walk with this id.

    Check the id. A walk that is not public is there for its owner only: show the same API key or cookie that
    made it.
    """

    status = HTTPStatus.NOT_FOUND
    type = "walk-not-found"
    title = "No such walk"


class WalkExpiredError(MomalisaError):
    """The walk is past its retention, and its files are gone.

    Make it again: the same prompts, seed and settings on the same model give the same pictures.
    """

    status = HTTPStatus.GONE
    type = "walk-expired"
    title = "The walk has expired"


class FrameNotThereError(MomalisaError):
    """The walk has no such frame, or it is not rendered yet.

    Poll the walk; each of its frames has a URL once it is there.
    """

    status = HTTPStatus.NOT_FOUND
    type = "frame-not-there"
    title = "No such frame yet"


class ArtifactNotThereError(MomalisaError):
    """The walk has no such file, or not yet.

    Poll the walk until it has succeeded; its `artifacts` are what it offers then.
    """

    status = HTTPStatus.NOT_FOUND
    type = "artifact-not-there"
    title = "No such file yet"


class MethodNotAllowedError(MomalisaError):
    """This cannot be done here.

    The Allow header of the answer lists the methods of the path.
    """

    status = HTTPStatus.METHOD_NOT_ALLOWED
    type = "method-not-allowed"
    title = "Not a method of this path"


class IdempotencyKeyError(MomalisaError):
    """The Idempotency-Key header is not what it must be.

    Send 1 to 255 visible ASCII characters, such as a random UUID.
    """

    status = HTTPStatus.BAD_REQUEST
    type = "idempotency-key-malformed"
    title = "The idempotency key is malformed"


class IdempotencyKeyReusedError(MomalisaError):
    """The same Idempotency-Key came with another request.

    Draw a new key for each new request, and keep it for sending the very same request again.
    """

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "idempotency-key-reused"
    title = "The idempotency key belongs to another request"


class UnauthorizedError(MomalisaError):
    """The caller named no key where one is needed, or one that does not hold.

    Send a key that holds as `Authorization: Bearer …`. An operator of this site makes keys, by `momalisa keys
    create`.
    """

    status = HTTPStatus.UNAUTHORIZED
    type = "unauthorized"
    title = "A valid API key is needed"


class InvalidKeyError(UnauthorizedError):
    """The API key that was shown does not hold."""


class NotOwnerError(MomalisaError):
    """The walk can be seen by everybody, but this can be done by its owner only.

    Show the API key or the cookie with which the walk was made.
    """

    status = HTTPStatus.FORBIDDEN
    type = "not-owner"
    title = "Not your walk"


class ForeignOriginError(MomalisaError):
    """A page of another site sent a request that changes something, without an API key.

    Send the request from a page of this site, or from a program with an API key.
    """

    status = HTTPStatus.FORBIDDEN
    type = "foreign-origin"
    title = "Sent by another site"


class KeyNotFoundError(MomalisaError):
    """There is no API key with this id."""

    status = HTTPStatus.NOT_FOUND
    type = "key-not-found"
    title = "No such API key"


class TooLargeError(MomalisaError):
    """The body of the request is larger than is taken.

    Send less: a walk of ten long prompts fits many times over.
    """

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "too-large"
    title = "The request is too large"


class UnsupportedMediaTypeError(MomalisaError):
    """The body of the request is not of a type that is taken here, or does not tell its type.

    Send the Content-Type that the detail names; the Accept-Post header of the answer lists what is taken.
    """

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    type = "unsupported-media-type"
    title = "The content type is not taken here"


class TooLargeHeadersError(MomalisaError):
    """A header of the request, or all of them together, are larger than is taken.

    Send fewer or smaller headers; old cookies of this site may be in the way.
    """

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    type = "headers-too-large"
    title = "The headers are too large"


class TooLongAddressError(MomalisaError):
    """The path and the query of the request are longer than is taken.

    Ask for less at once.
    """

    status = HTTPStatus.REQUEST_URI_TOO_LONG
    type = "address-too-long"
    title = "The address is too long"


class HostError(MomalisaError):
    """The request names no host, several, or something that is none.

    Send one `Host` header, as every HTTP library does.
    """

    status = HTTPStatus.BAD_REQUEST
    type = "host-malformed"
    title = "The host is malformed"


class TooSlowError(MomalisaError):
    """The request took too long to be sent.

    Send the request again, at once and whole.
    """

    status = HTTPStatus.REQUEST_TIMEOUT
    type = "too-slow"
    title = "The request came too slowly"


class LimitExceededError(MomalisaError):
    """The caller asked for more than its share; later it may ask again.

    Wait as many seconds as Retry-After says, then go on. RateLimit and RateLimit-Policy tell what is left
    before it comes to this.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "limit-exceeded"
    title = "Too much at once"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class WalkOverError(MomalisaError):
    """The walk has ended, so that this can no longer be done to it.

    Nothing is left to do: read the walk to see how it ended.
    """

    status = HTTPStatus.CONFLICT
    type = "walk-over"
    title = "The walk is over"


class InvalidRequestError(MomalisaError):
    """Some fields of the request are not what they must be.

    The list `errors` names each field that is wrong and what it must be.
    """

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "invalid-request"
    title = "The request is not valid"


class InvalidFieldError(InvalidRequestError):
    """A field of the request is not what it must be."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}.")
        self.field = field
        self.message = message


class StoreUnavailableError(MomalisaError):
    """The database, or the bucket of the files, cannot be reached just now.

    Try again after as many seconds as Retry-After says. Nothing of what was made is lost.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "unavailable"
    title = "Not available just now"


class StoreBusyError(StoreUnavailableError):
    """The database is there, and gave up a query that took too long or was in the way of another."""

    type = "store-busy"
    title = "Too busy just now"


class TooManyWaitError(MomalisaError):
    """Too many requests wait for walks on this server just now.

    Look at the walk without waiting, or try again after as many seconds as Retry-After says."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "too-many-wait"
    title = "Too many requests wait"


class ModelError(MomalisaError):
    """The model cannot be loaded, or does not do what a walk needs of it."""

    type = "model"
    title = "The model cannot render walks"


class RendererBusyError(MomalisaError):
    """The endpoint that renders for us takes no more just now, or is not there."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "renderer-busy"
    title = "The renderer is busy"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class RendererError(MomalisaError):
    """The endpoint that renders for us refused a chunk, did not answer in time, or made no sense."""

    type = "renderer"
    title = "The renderer failed"


class ObjectInTheWayError(MomalisaError):
    """There is another object under a name, and who came upon it may not replace it."""

    type = "object-in-the-way"
    title = "Another file has this name"


class ObjectCorruptError(MomalisaError):
    """An object of the bucket is missing, or is not what was recorded."""

    type = "object-corrupt"
    title = "A stored file is damaged"


class LeaseLostError(MomalisaError):
    """The chunk is no longer ours: its lease ran out, or its walk is over."""

    type = "lease-lost"
    title = "The work was handed to somebody else"


class WebhooksOffError(MomalisaError):
    """This server sends no webhooks, because it has nothing to sign them with.

    Poll the walk instead, or follow its events; an operator turns webhooks on by WEBHOOK_SECRET.
    """

    status = HTTPStatus.NOT_FOUND
    type = "webhooks-off"
    title = "No webhooks here"


class AddressRefusedError(MomalisaError):
    """The address is not one that we connect to for strangers."""

    type = "address-refused"
    title = "We do not connect to this address"


class SchemaError(MomalisaError):
    """The database was made by a version that this one does not know."""

    type = "schema"
    title = "The schema of the database is not known"


class LocalSystemError(MomalisaError):
    """The system cannot be started on this machine."""

    type = "local-system"
    title = "The system cannot be started"


class PortTakenError(MomalisaError):
    """METRICS_PORT is another program's."""

    type = "port-taken"
    title = "The port is taken"
