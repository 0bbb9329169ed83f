"""The bucket: Google Cloud Storage, or an emulator of the same API, by the same code."""

import base64
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote, urljoin
from uuid import UUID

import google_crc32c
import requests
from google.api_core.exceptions import Conflict, NotFound, PreconditionFailed
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from momalisa.db import session
from momalisa.errors import ObjectCorruptError
from momalisa.settings import settings
from momalisa.storage import signed_urls
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import cause, logger

log = logger(__name__)

FOREVER = "max-age=31536000, immutable"
"""Objects never change, so browsers may cache them, and CDNs those of a public bucket."""

CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes of a file in memory during an upload; a multiple of 256 KiB, as the library requires."""

TIMEOUT = (3.05, 10.0)
"""Seconds to connect and to read, for each attempt."""

Check = Callable[[], None]
"""Raises if the work was cancelled."""


@dataclass(frozen=True)
class StoredObject:
    """An object as it was recorded."""

    name: str
    bytes: int
    crc32c: str
    """Base64 of the big-endian CRC32C, as Google Cloud Storage gives it."""


@dataclass(frozen=True)
class ListedObject:
    """An object in a listing."""

    name: str
    generation: int
    created_at: datetime
    """By the clock of the bucket."""


def _bucket() -> storage.Bucket:
    """Return the bucket; only outside of transactions."""
    session.refuse_open_transaction()
    return _client_bucket()


@cache
def _client_bucket() -> storage.Bucket:
    """Return the bucket with its client, created at the first call, so never shared across a fork."""
    if endpoint := settings().bucket_endpoint:
        client = storage.Client(
            project="momalisa",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": endpoint},
        )
    else:
        client = storage.Client()
    client._http.hooks["response"].append(_observe)  # of the session that sends all requests of this client
    return client.bucket(settings().bucket)


def _observe(response: requests.Response, **_: object) -> None:
    metrics.record(
        metrics.BUCKET_SECONDS,
        response.elapsed.total_seconds(),
        method=str(response.request.method),
        status=str(response.status_code),
    )


def _no_check() -> None: ...


def new_secret() -> str:
    """Return a secret for the object names of a walk: 128 random bits, URL-safe."""
    return secrets.token_urlsafe(16)


def folder_name(walk_id: UUID, secret: str | None = None) -> str:
    """Return the prefix of all object names of a walk, or of those under one of its secrets."""
    return f"walks/{walk_id}/" if secret is None else f"walks/{walk_id}/{secret}/"


def frame_name(walk_id: UUID, secret: str, position: float) -> str:
    """Return the object name of a frame: the same at every attempt, and sorting by position."""
    return f"{folder_name(walk_id, secret)}frames/{position:.9f}.png"


def artifact_name(walk_id: UUID, secret: str, filename: str) -> str:
    """Return the object name of an artifact."""
    return f"{folder_name(walk_id, secret)}{filename}"


def upload(
    name: str,
    data: bytes | Path,
    content_type: str,
    *,
    download_as: str | None = None,
    check: Check = _no_check,
    confirm: Check = _no_check,
) -> StoredObject:
    """Create an object unless it exists, and return it.

    An object of the same name with another checksum has other contents or is damaged: it is replaced.
    Retries for two minutes while the bucket is unavailable.

    Args:
        name: its name.
        data: its bytes, or a file, which is read in pieces.
        content_type: its media type.
        download_as: file name under which a browser saves it; None means that the browser displays it.
        check: called between attempts; its exceptions pass through.
        confirm: called before an object is replaced; raises if the caller may no longer do that.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    blob = _bucket().blob(name, chunk_size=CHUNK_BYTES)
    upload = blob.upload_from_filename if isinstance(data, Path) else blob.upload_from_string
    checksum, retry = _crc32c(data), _retry(check, name)
    generation = 0  # "must not exist"
    while True:
        blob.cache_control = f"{'private' if settings().signed_urls else 'public'}, {FOREVER}"
        blob.content_disposition = _attachment(download_as) if download_as else None
        try:
            if isinstance(data, Path) and not generation and blob.exists(timeout=TIMEOUT, retry=retry):
                raise PreconditionFailed("It exists.")  # type: ignore[no-untyped-call]  # saves the upload
            upload(
                data,
                content_type=content_type,
                if_generation_match=generation,
                checksum="crc32c",
                timeout=TIMEOUT,
                retry=retry,
            )
        except PreconditionFailed:
            try:
                blob.reload(timeout=TIMEOUT, retry=retry)
            except NotFound:  # deleted in the meantime
                generation = 0
                continue
        if blob.crc32c == checksum:
            return StoredObject(name, int(blob.size), str(blob.crc32c))
        check()
        confirm()
        generation = blob.generation


def _attachment(name: str) -> str:
    """Return the Content-Disposition of a file that is saved under a name (RFC 6266 and, for others, RFC 8187)."""
    return f'attachment; filename="{name}"' if name.isascii() else f"attachment; filename*=UTF-8''{quote(name)}"


def copy(original: StoredObject, name: str, *, check: Check = _no_check) -> StoredObject | None:
    """Copy an object inside the bucket, unless the copy exists; its bytes do not pass through this process.

    Returns None if the original is missing, or if the original or the copy differs from what was recorded.

    Args:
        original: the object, as it was recorded.
        name: of the copy.
        check: called between attempts; its exceptions pass through.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    bucket, arguments = _bucket(), {"timeout": TIMEOUT, "retry": _retry(check, name)}
    try:
        blob = bucket.copy_blob(
            bucket.blob(original.name), bucket, name, if_generation_match=0, preserve_acl=True, **arguments
        )
    except (NotFound, PreconditionFailed):  # if both apply, a bucket may report either
        blob = bucket.get_blob(name, **arguments)
    if blob is None or blob.crc32c != original.crc32c:
        return None
    return StoredObject(name, int(blob.size), str(blob.crc32c))


def delete_conflicting(name: str, *, check: Check = _no_check, confirm: Check = _no_check) -> None:
    """Delete an object that was never recorded, and has the name of an object to upload.

    Args:
        name: its name.
        check: called between attempts; its exceptions pass through.
        confirm: called before an object is deleted; raises if the caller may no longer do that.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    blob = _bucket().get_blob(name, timeout=TIMEOUT, retry=_retry(check, name))
    if blob is None:
        return
    confirm()
    with contextlib.suppress(NotFound, PreconditionFailed):
        blob.delete(if_generation_match=blob.generation, timeout=TIMEOUT, retry=_retry(check, name))


def read(stored: StoredObject, *, check: Check = _no_check) -> bytes:
    """Return the bytes of an object.

    Args:
        stored: the object, as it was recorded.
        check: called between attempts; its exceptions pass through.

    Raises:
        ObjectCorruptError: if it is missing, or differs from what was recorded.
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    blob = _bucket().blob(stored.name)
    try:
        data: bytes = blob.download_as_bytes(timeout=TIMEOUT, retry=_retry(check, stored.name))
    except NotFound as error:
        raise ObjectCorruptError(f"The object {stored.name} is missing.") from error
    if _crc32c(data) != stored.crc32c:
        raise ObjectCorruptError(f"The checksum of the object {stored.name} differs from the recorded one.")
    return data


def list_names(prefix: str) -> list[str]:
    """Return the names of all objects with a prefix.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    return [blob.name for blob in _bucket().list_blobs(prefix=prefix, timeout=TIMEOUT)]


def list_objects(prefix: str, *, start: str, limit: int) -> list[ListedObject]:
    """Return the objects with a prefix, in the order of their names, from the name `start` on, at most `limit`.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    found = _bucket().list_blobs(prefix=prefix, start_offset=start or None, max_results=limit, timeout=TIMEOUT)
    return [ListedObject(blob.name, blob.generation, blob.time_created) for blob in found]


def delete(name: str, *, generation: int | None = None) -> None:
    """Delete an object, or one generation of it, if it exists.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    with contextlib.suppress(NotFound, PreconditionFailed):
        _bucket().blob(name).delete(if_generation_match=generation, timeout=TIMEOUT, retry=DEFAULT_RETRY)


def delete_all(prefix: str, *, check: Check = _no_check) -> None:
    """Delete all objects with a prefix.

    Args:
        prefix: of the names.
        check: called before each object; its exceptions pass through.

    Raises:
        google.api_core.exceptions.GoogleAPIError: if the bucket refuses, or stays unavailable.
    """
    for blob in _bucket().list_blobs(prefix=prefix, timeout=TIMEOUT):
        check()
        with contextlib.suppress(NotFound):
            blob.delete(timeout=TIMEOUT, retry=DEFAULT_RETRY)


def url(name: str, website: str) -> str:
    """Return the URL of an object for browsers, valid until `urls_expire_at`.

    Args:
        name: its name.
        website: base URL of the website, if BUCKET_PUBLIC_URL is a path on it.

    Raises:
        StoreUnavailableError: if the bucket is private, and its URLs cannot be signed.
    """
    session.refuse_open_transaction()
    expires_at = urls_expire_at()
    if expires_at is not None:
        return signed_urls.urls([_bucket().blob(name)], expires_at)[0]
    return urljoin(website, f"{base_url()}/{settings().bucket}/{quote(name)}")


def sign(names: Iterable[str]) -> None:
    """If the bucket is private, sign the URLs of many objects concurrently, so that `url` finds them in the cache.

    Raises:
        StoreUnavailableError: if they cannot be signed.
    """
    session.refuse_open_transaction()
    expires_at = urls_expire_at()
    if expires_at is not None:
        signed_urls.urls([_bucket().blob(name) for name in names], expires_at)


def base_url() -> str:
    """Return the base URL of all objects; a path, if the website's host forwards it to the bucket."""
    given = settings().bucket_public_url or settings().bucket_endpoint or "https://storage.googleapis.com"
    return given.rstrip("/")


def urls_expire_at() -> datetime | None:
    """Return when URLs that are returned now expire, or None if they do not expire.

    The time stays the same for half the lifetime of a URL, so that browsers can use their caches.
    """
    if not settings().signed_urls:
        return None
    half = settings().signed_url_seconds / 2
    return datetime.fromtimestamp((time.time() // half + 2) * half, UTC)


def make_bucket() -> None:
    """Create the bucket unless it exists."""
    client = _bucket().client
    try:
        client.create_bucket(settings().bucket, timeout=TIMEOUT)
    except Conflict:
        return


def _retry(check: Check, name: str) -> Retry:
    """Return the library's retry policy, which also calls `check` between tries.

    The first error is logged, because the last one may be raised only after two minutes.
    """
    logged = False

    def should_retry(error: Exception) -> bool:
        nonlocal logged
        check()
        again = bool(DEFAULT_RETRY._predicate(error))
        if again and not logged:
            log.warning("bucket request retried", object=name, reason=str(error), cause=cause(error))
            logged = True
        return again

    policy: Retry = DEFAULT_RETRY.with_predicate(should_retry).with_delay(initial=0.5, maximum=5)
    return policy


def _crc32c(data: bytes | Path) -> str:
    value = 0
    if isinstance(data, Path):
        with data.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                value = google_crc32c.extend(value, piece)
    else:
        value = google_crc32c.value(data)
    return base64.b64encode(value.to_bytes(4, "big")).decode()
