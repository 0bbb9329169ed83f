"""All errors of MoMALisa. `api/problems/catalog.py` gives them HTTP statuses and problem types."""

from collections.abc import Collection


class MomalisaError(Exception):
    """Base class of errors whose message is for users."""


class InvalidJsonError(MomalisaError):
    """The body of the request is not JSON."""


class WalkNotFoundError(MomalisaError):
    """There is no walk with this id."""


class FormatNotSupportedError(MomalisaError):
    """The answer is not available in this format."""


class WalkExpiredError(MomalisaError):
    """The walk is past its retention, and its files are gone."""


class FrameNotFoundError(MomalisaError):
    """The walk has no such frame, or it has not been rendered yet."""


class ArtifactNotFoundError(MomalisaError):
    """The walk does not have this file, or not yet."""


class MethodNotAllowedError(MomalisaError):
    """The path does not support this method."""


class IdempotencyKeyError(MomalisaError):
    """The Idempotency-Key header is malformed."""


class IdempotencyKeyReusedError(MomalisaError):
    """The Idempotency-Key was used before, for another request."""


class UnauthorizedError(MomalisaError):
    """The request needs an API key, and has none or an invalid one."""


class WalkPrivateError(UnauthorizedError):
    """The walk is private, so it cannot be shown on other sites."""


class InvalidKeyError(UnauthorizedError):
    """The API key is unknown, revoked or expired."""


class NotOwnerError(MomalisaError):
    """The walk is public, but only its owner may do this."""


class ForeignOriginError(MomalisaError):
    """A page of another site sent a request that changes data, without an API key."""


class KeyNotFoundError(MomalisaError):
    """There is no API key with this id."""


class BodyTooLargeError(MomalisaError):
    """The body of the request is too large."""


class UnsupportedMediaTypeError(MomalisaError):
    """The Content-Type of the request is missing or not supported."""


class HeadersTooLargeError(MomalisaError):
    """One header of the request is too large, or all of them together."""


class UrlTooLongError(MomalisaError):
    """The path and query of the request are too long."""


class InvalidHostError(MomalisaError):
    """The Host header is missing, repeated or malformed."""


class SlowRequestError(MomalisaError):
    """The request took too long to arrive."""


class LimitExceededError(MomalisaError):
    """The caller is over a limit; it may try again later."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class WalkEndedError(MomalisaError):
    """The walk has ended, so this can no longer be done."""


class InvalidRequestError(MomalisaError):
    """Some fields of the request are not valid."""


class InvalidFieldError(InvalidRequestError):
    """A field of the request is not valid."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}.")
        self.field = field
        self.message = message


class StoreUnavailableError(MomalisaError):
    """The database or the bucket is temporarily unavailable."""


class StoreBusyError(StoreUnavailableError):
    """The database canceled a query that took too long or conflicted with another."""


class TooManyWaitersError(MomalisaError):
    """Too many requests are waiting for walks in this process."""


class ModelError(MomalisaError):
    """The model cannot be loaded, or lacks something that walks need."""


class RendererBusyError(MomalisaError):
    """The Vertex AI endpoint is overloaded or unreachable."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


class RendererError(MomalisaError):
    """The Vertex AI endpoint refused a chunk, timed out, or sent an invalid response."""


class ObjectConflictError(MomalisaError):
    """Another object has this name and must not be replaced."""


class ObjectCorruptError(MomalisaError):
    """An object of the bucket is missing, or differs from what was recorded."""


class KeysLostError(MomalisaError):
    """Frames between which others are interpolated are missing, or differ from what was recorded."""

    def __init__(self, positions: Collection[float]) -> None:
        super().__init__(f"The frames at {', '.join(f'{at:g}' for at in positions)} are missing or damaged.")
        self.positions = frozenset(positions)


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
