"""Signed URLs of a private bucket: made many at once, and remembered for as long as they are given out."""

import threading
from collections.abc import Iterable
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

AT_ONCE = 64
"""Signatures that are asked for at once: each is a request to IAM, where no key is at hand."""

TIMEOUT = (3.05, 5.0)
"""Seconds to connect to IAM, and to wait for bytes, at each try."""

REMEMBERED = 100_000


class _ByIam(Signing):
    """Credentials that hold no key, as those of a virtual machine or a pod: IAM signs for them."""

    def __init__(self, credentials: Any) -> None:
        session = requests.Session()
        session.mount("https://", HTTPAdapter(pool_maxsize=AT_ONCE))
        session.mount("http://", HTTPAdapter(pool_maxsize=AT_ONCE))
        request = partial(Request(session), timeout=TIMEOUT)
        if not credentials.valid:
            credentials.refresh(request)  # it also learns the name of the account
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
    """The signed URLs of this process, each made once, also while several ask for it."""

    def __init__(self) -> None:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        self._credentials = credentials if isinstance(credentials, Signing) else _ByIam(credentials)
        self._signers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="signer")
        self._urls: dict[tuple[str, datetime], Future[str]] = {}
        self._lock = threading.Lock()

    def urls(self, blobs: Iterable[Blob], expires_at: datetime) -> list[str]:
        """Return the URLs of objects; those that are not known yet are signed at once.

        Raises:
            google.auth.exceptions.GoogleAuthError: if IAM refuses, or cannot be reached.
        """
        with self._lock:
            wanted = [self._url(blob, expires_at) for blob in blobs]
        return [url.result() for url in wanted]

    def _url(self, blob: Blob, expires_at: datetime) -> Future[str]:
        key = (blob.name, expires_at)
        if (known := self._urls.get(key)) and not (known.done() and known.exception()):
            return known
        if len(self._urls) >= REMEMBERED:
            self._urls.clear()
        self._urls[key] = made = self._signers.submit(
            blob.generate_signed_url,
            version="v4",
            expiration=expires_at,
            credentials=self._credentials,
            api_access_endpoint=settings().bucket_endpoint,
        )
        return made


@cache
def _signatures() -> Signatures:
    return Signatures()


def urls(blobs: Iterable[Blob], expires_at: datetime) -> list[str]:
    """Return the V4 signed URLs of objects, which hold until `expires_at`.

    Raises:
        StoreUnavailableError: if they cannot be signed just now.
    """
    try:
        return _signatures().urls(blobs, expires_at)
    except GoogleAuthError as error:
        raise StoreUnavailableError(
            "The addresses of the files cannot be signed just now; try again soon."
        ) from error
