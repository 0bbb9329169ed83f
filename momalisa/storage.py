"""The bucket: Google Cloud Storage, or an emulator of the same API, by one code path."""

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote
from uuid import UUID

import google_crc32c
from google.api_core.exceptions import Conflict, NotFound, PreconditionFailed
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from momalisa.errors import ObjectCorruptError
from momalisa.settings import settings

FOREVER = "public, max-age=31536000, immutable"
"""Objects never change, so browsers and CDNs may keep them."""

TIMEOUT = (3.05, 10.0)
"""Seconds to connect, and to wait for bytes, at each try."""


Check = Callable[[], None]


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


def _go_on() -> None: ...


def folder_name(walk_id: UUID) -> str:
    """Return what the names of all objects of a walk begin with."""
    return f"walks/{walk_id}/"


def frame_name(walk_id: UUID, position: float) -> str:
    """Return the name of the object that holds a frame: the same at every attempt, sorted by position."""
    return f"{folder_name(walk_id)}frames/{position:.9f}.png"


def artifact_name(walk_id: UUID, filename: str) -> str:
    """Return the name of the object that holds an artifact."""
    return f"{folder_name(walk_id)}{filename}"


def put(
    name: str,
    data: bytes,
    content_type: str,
    *,
    download_as: str | None = None,
    check: Check = _go_on,
    confirm: Check = _go_on,
) -> StoredObject:
    """Create an object, unless it is there already, and return what is in the bucket under its name.

    What is there under the name with another checksum was not made from the same input, or is damaged: it is
    replaced. Tries again for two minutes when the bucket is out of order.

    Args:
        name: of the object.
        data: its bytes.
        content_type: its media type.
        download_as: the file name under which a browser saves it; None lets the browser show it.
        check: called between two tries; what it raises ends the work.
        confirm: called before an object is replaced; raises unless the caller still has the right to.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays out of order.
    """
    blob = _bucket().blob(name)
    generation = 0  # "must not exist"
    while True:
        blob.cache_control = FOREVER
        blob.content_disposition = f'attachment; filename="{download_as}"' if download_as else None
        try:
            blob.upload_from_string(
                data,
                content_type,
                if_generation_match=generation,
                checksum="crc32c",
                timeout=TIMEOUT,
                retry=_retry(check),
            )
        except PreconditionFailed:
            try:
                blob.reload(timeout=TIMEOUT, retry=_retry(check))
            except NotFound:  # somebody removed it meanwhile
                generation = 0
                continue
        if blob.crc32c == _crc32c(data):
            return StoredObject(name, int(blob.size), str(blob.crc32c))
        check()
        confirm()
        generation = blob.generation


def read(stored: StoredObject, *, check: Check = _go_on) -> bytes:
    """Return the bytes of an object.

    Args:
        stored: the object, as it was recorded.
        check: called between two tries; what it raises ends the work.

    Raises:
        ObjectCorruptError: if it is missing, or is not what was recorded.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays out of order.
    """
    blob = _bucket().blob(stored.name)
    try:
        data: bytes = blob.download_as_bytes(timeout=TIMEOUT, retry=_retry(check))
    except NotFound as error:
        raise ObjectCorruptError(f"{stored.name} is not in the bucket") from error
    if _crc32c(data) != stored.crc32c:
        raise ObjectCorruptError(f"{stored.name} is not what was recorded")
    return data


def delete_all(prefix: str) -> None:
    """Delete every object whose name begins so; those that are gone already do no harm.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays out of order.
    """
    for blob in _bucket().list_blobs(prefix=prefix, timeout=TIMEOUT):
        with contextlib.suppress(NotFound):
            blob.delete(timeout=TIMEOUT, retry=DEFAULT_RETRY)


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


def _retry(check: Check) -> Retry:
    """Return the library's own policy for trying again, which also asks `check` whether to go on."""

    def should_retry(error: Exception) -> bool:
        check()
        return bool(DEFAULT_RETRY._predicate(error))

    policy: Retry = DEFAULT_RETRY.with_predicate(should_retry).with_delay(initial=0.5, maximum=5)
    return policy


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
