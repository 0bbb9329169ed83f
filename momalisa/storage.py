"""The bucket: Google Cloud Storage, or an emulator of the same API, by one code path."""

from dataclasses import dataclass
from functools import cache
from urllib.parse import quote
from uuid import UUID

from google.api_core.exceptions import Conflict, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from momalisa.errors import ObjectCorruptError
from momalisa.settings import settings

FOREVER = "public, max-age=31536000, immutable"
"""Objects never change, so browsers and CDNs may keep them."""

TIMEOUT = (3.05, 20.0)
"""Seconds to connect, and to wait for bytes, at each try."""


@dataclass(frozen=True)
class StoredObject:
    """An object that is in the bucket."""

    name: str
    bytes: int
    crc32c: str
    """Base64 of the big-endian CRC32C, as Google Cloud Storage gives it."""


@cache
def _bucket() -> storage.Bucket:
    """Return the bucket, through a client that is made at the first call, so never shared across a fork."""
    if endpoint := settings().bucket_endpoint:
        client = storage.Client(
            project="momalisa",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": endpoint},
        )
    else:
        client = storage.Client()
    return client.bucket(settings().bucket)


def frame_name(walk_id: UUID, position: float) -> str:
    """Return the name of the object that holds a frame: the same at every attempt, sorted by position."""
    return f"walks/{walk_id}/frames/{position:.9f}.png"


def artifact_name(walk_id: UUID, filename: str) -> str:
    """Return the name of the object that holds an artifact."""
    return f"walks/{walk_id}/{filename}"


def put(name: str, data: bytes, content_type: str, *, download_as: str | None = None) -> StoredObject:
    """Create an object, and return what is in the bucket under its name.

    Objects are never overwritten: when one is there already, an earlier attempt made it from the same input, and
    it stays. Tries again for two minutes when the bucket is out of order.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays out of order.
    """
    blob = _bucket().blob(name)
    blob.cache_control = FOREVER
    if download_as:
        blob.content_disposition = f'attachment; filename="{download_as}"'
    try:
        blob.upload_from_string(data, content_type, if_generation_match=0, checksum="crc32c", timeout=TIMEOUT)
    except PreconditionFailed:
        blob.reload(timeout=TIMEOUT)
    return StoredObject(name, int(blob.size), str(blob.crc32c))


def read(stored: StoredObject) -> bytes:
    """Return the bytes of an object.

    Raises:
        ObjectCorruptError: if it is missing, or is not what was recorded.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays out of order.
    """
    blob = _bucket().blob(stored.name)
    try:
        data: bytes = blob.download_as_bytes(timeout=TIMEOUT)
    except NotFound as error:
        raise ObjectCorruptError(f"{stored.name} is not in the bucket") from error
    if len(data) != stored.bytes or blob.crc32c != stored.crc32c:
        raise ObjectCorruptError(f"{stored.name} is not what was recorded")
    return data


def url(name: str) -> str:
    """Return the URL at which a browser finds an object."""
    base = settings().bucket_endpoint or "https://storage.googleapis.com"
    return f"{base}/{settings().bucket}/{quote(name)}"


def make_bucket() -> None:
    """Create the bucket unless it is there."""
    client = _bucket().client
    try:
        client.create_bucket(settings().bucket, timeout=TIMEOUT)
    except Conflict:
        return
