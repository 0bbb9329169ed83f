"""All errors of MoMALisa. `api/problems/catalog.py` gives them HTTP statuses and problem types."""


class MomalisaError(Exception):
    """Base class of errors whose message is for users."""


class InvalidJsonError(MomalisaError):
    """The body of the request is not JSON."""


class WalkNotFoundError(MomalisaError):
    """There is no walk with this id."""


class WalkExpiredError(MomalisaError):
    """The walk is past its retention, and its files are gone."""


class FrameNotThereError(MomalisaError):
    """The walk has no such frame, or it is not rendered yet."""


class ArtifactNotThereError(MomalisaError):
    """The walk has no such file, or not yet."""


class MethodNotAllowedError(MomalisaError):
    """The path does not support this method."""


class IdempotencyKeyError(MomalisaError):
    """The Idempotency-Key header is malformed."""


class IdempotencyKeyReusedError(MomalisaError):
    """The same Idempotency-Key came with another request."""


class UnauthorizedError(MomalisaError):
    """An API key is needed, and the request has none, or one that is not valid."""


class InvalidKeyError(UnauthorizedError):
    """The API key is unknown, revoked or expired."""


class NotOwnerError(MomalisaError):
    """The walk is public, but only its owner may do this."""


class ForeignOriginError(MomalisaError):
    """A page of another site sent a request that changes something, without an API key."""


class KeyNotFoundError(MomalisaError):
    """There is no API key with this id."""


class TooLargeError(MomalisaError):
    """The body of the request is too large."""


class UnsupportedMediaTypeError(MomalisaError):
    """The Content-Type of the request is missing or not supported."""


class TooLargeHeadersError(MomalisaError):
    """A header of the request, or all of them together, are too large."""


class TooLongAddressError(MomalisaError):
    """The path and the query of the request are too long."""


class HostError(MomalisaError):
    """The Host header is missing, repeated or malformed."""


class TooSlowError(MomalisaError):
    """The request took too long to arrive."""


class LimitExceededError(MomalisaError):
    """The caller is over a limit; it may try again later."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class WalkOverError(MomalisaError):
    """The walk has ended, so it can no longer be canceled."""


class InvalidRequestError(MomalisaError):
    """Some fields of the request are not valid."""


class InvalidFieldError(InvalidRequestError):
    """A field of the request is not valid."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}.")
        self.field = field
        self.message = message


class StoreUnavailableError(MomalisaError):
    """The database, or the bucket of the files, cannot be reached just now."""


class StoreBusyError(StoreUnavailableError):
    """The database canceled a query that took too long or conflicted with another."""


class TooManyWaitError(MomalisaError):
    """Too many requests wait for walks on this server just now."""


class ModelError(MomalisaError):
    """The model cannot be loaded, or lacks something that walks need."""


class RendererBusyError(MomalisaError):
    """The Vertex AI endpoint is overloaded or unreachable."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class RendererError(MomalisaError):
    """The Vertex AI endpoint refused a chunk, timed out, or sent an invalid answer."""


class ObjectConflictError(MomalisaError):
    """Another object has this name, and must not be replaced."""


class ObjectCorruptError(MomalisaError):
    """An object of the bucket is missing, or differs from what was recorded."""


class LeaseLostError(MomalisaError):
    """The worker no longer holds the chunk: its lease expired, or its walk ended."""


class WebhooksOffError(MomalisaError):
    """This server sends no webhooks: WEBHOOK_SECRET is unset."""


class AddressRefusedError(MomalisaError):
    """The address is not on the public Internet, so no webhook is sent there."""


class SchemaError(MomalisaError):
    """The schema of the database is of an unknown version."""


class LocalSystemError(MomalisaError):
    """The system cannot start on this machine."""


class PortTakenError(MomalisaError):
    """Another program uses METRICS_PORT."""
