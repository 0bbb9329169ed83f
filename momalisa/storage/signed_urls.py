"""Signed URLs of a private bucket: signed concurrently, and cached while they are in use."""

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import cache, partial
from typing import Any

import google.auth
import requests
from google.auth import iam
from google.auth.credentials import Signing
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud.storage import Blob
from requests.adapters import HTTPAdapter

from momalisa.errors import StoreUnavailableError
from momalisa.settings import settings
from momalisa.telemetry import metrics

CONCURRENCY = 64
"""Concurrent signatures; without a private key, each needs a request to IAM."""

TIMEOUT = (3.05, 5.0)
"""Seconds to connect to IAM and to read, for each attempt."""

CACHE_SIZE = 100_000


class _IamSigning(Signing):
    """Credentials without a private key, such as those of a VM or a pod; IAM signs for them."""

    def __init__(self, credentials: Any) -> None:
        session = requests.Session()
        session.mount("https://", HTTPAdapter(pool_maxsize=CONCURRENCY))
        session.mount("http://", HTTPAdapter(pool_maxsize=CONCURRENCY))
        request = partial(Request(session), timeout=TIMEOUT)
        if not credentials.valid:
            credentials.refresh(request)  # also fetches the name of the account
        self._signer = iam.Signer(request, credentials, credentials.service_account_email)  # type: ignore[no-untyped-call]

    def sign_bytes(self, message: bytes) -> bytes:
        signature: bytes = self._signer.sign(message)
        return signature

    @property
    def signer_email(self) -> str:
        email: str = self._signer._service_account_email
        return email

    @property
    def signer(self) -> iam.Signer:
        return self._signer


class Signatures:
    """The cache of signed URLs of this process; concurrent requests for the same URL share a signature."""

    def __init__(self) -> None:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        self._credentials = credentials if isinstance(credentials, Signing) else _IamSigning(credentials)
        self._signers = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="signer")
        self._urls: dict[tuple[str, datetime], Future[str]] = {}
        self._lock = threading.Lock()

    def urls(self, blobs: Iterable[Blob], expires_at: datetime) -> list[str]:
        """Return the URLs of objects; those that are not cached are signed concurrently.

        Raises:
            google.auth.exceptions.GoogleAuthError: if IAM refuses, or cannot be reached.
        """
        with self._lock:
            urls = [self._url(blob, expires_at) for blob in blobs]
        return [url.result() for url in urls]

    def _url(self, blob: Blob, expires_at: datetime) -> Future[str]:
        key = (blob.name, expires_at)
        if (known := self._urls.get(key)) and not (known.done() and known.exception()):
            return known
        if len(self._urls) >= CACHE_SIZE:
            self._urls.clear()
        self._urls[key] = url = self._signers.submit(self._sign, blob, expires_at)
        return url

    def _sign(self, blob: Blob, expires_at: datetime) -> str:
        started = time.monotonic()
        try:
            url: str = blob.generate_signed_url(
                version="v4",
                expiration=expires_at,
                credentials=self._credentials,
                api_access_endpoint=settings().bucket_endpoint,
            )
            return url
        finally:
            metrics.record(metrics.SIGNING_SECONDS, time.monotonic() - started)


@cache
def _signatures() -> Signatures:
    return Signatures()


def urls(blobs: Sequence[Blob], expires_at: datetime) -> list[str]:
    """Return the V4 signed URLs of objects, which expire at `expires_at`.

    Raises:
        StoreUnavailableError: if they cannot be signed.
    """
    if not blobs:
        return []  # even if there are no credentials
    try:
        return _signatures().urls(blobs, expires_at)
    except GoogleAuthError as error:
        raise StoreUnavailableError("The URLs of the files cannot be signed; try again later.") from error
