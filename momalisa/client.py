"""A Python client of the REST API."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from momalisa.errors import MomalisaError

Walk = dict[str, Any]
"""A walk as the API tells it."""


class ApiError(MomalisaError):
    """The API refused, or could not do, what was asked; the message is what it said."""


class Client:
    """Talks to one MoMALisa server."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=10.0, follow_redirects=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, prompts: Sequence[str], **options: Any) -> Walk:
        """Queue a walk; `options` are the other fields of the request.

        Raises:
            ApiError: if the server refuses it or cannot be reached.
        """
        return self._walk("POST", "/v1/walks", json={"prompts": list(prompts), **options})

    def get(self, walk_id: str) -> Walk:
        """Return a walk.

        Raises:
            ApiError: if there is none with this id, or the server cannot be reached.
        """
        return self._walk("GET", f"/v1/walks/{walk_id}")

    def watch(self, walk: Walk) -> Iterator[Walk]:
        """Give a walk as it is now, and again after each look until it is done.

        Raises:
            ApiError: if the server cannot be reached.
        """
        while True:
            yield walk
            if walk["done"]:
                return
            time.sleep(1)
            walk = self.get(walk["id"])

    def download(self, url: str) -> bytes:
        """Return the bytes of a frame or an artifact.

        Raises:
            ApiError: if it cannot be fetched.
        """
        return self._request("GET", url).content

    def _walk(self, method: str, path: str, **arguments: Any) -> Walk:
        walk: Walk = self._request(method, path, **arguments).json()
        return walk

    def _request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, url, **arguments)
        except httpx.TransportError as error:
            raise ApiError(f"The server at {self._http.base_url} cannot be reached: {error}") from error
        if response.is_error:
            raise ApiError(_reason(response))
        return response


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.method} {response.url} answered {response.status_code}"
