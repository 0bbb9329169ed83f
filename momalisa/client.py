"""A Python client of the REST API."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from momalisa.errors import MomalisaError

Walk = dict[str, Any]
"""A walk as the API tells it."""


POLL_SECONDS = 1
PATIENCE_SECONDS = 60
"""How often to look at a walk, and how long to bear that the server is out of reach."""


class ApiError(MomalisaError):
    """The API refused, or could not do, what was asked; the message is what it said."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether it is worth asking again."""


class Client:
    """Talks to one MoMALisa server."""

    def __init__(self, base_url: str) -> None:
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ApiError(f"{base_url!r} is not a URL: {error}.") from error
        local = url.host in {"127.0.0.1", "localhost", "::1"}  # never through a proxy
        self._http = httpx.Client(base_url=url, timeout=10.0, follow_redirects=True, trust_env=not local)

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

    def cancel(self, walk_id: str) -> Walk:
        """Stop a walk and return it.

        Raises:
            ApiError: if it is over already, or the server cannot be reached.
        """
        return self._walk("POST", f"/v1/walks/{walk_id}/cancel")

    def watch(self, walk: Walk) -> Iterator[Walk]:
        """Give a walk as it is now, and again after each look until it is done.

        Raises:
            ApiError: if the server stays out of reach for a minute.
        """
        reached = time.monotonic()
        while True:
            yield walk
            if walk["done"]:
                return
            time.sleep(POLL_SECONDS)
            try:
                walk = self.get(walk["id"])
                reached = time.monotonic()
            except ApiError as error:
                if not error.passing or time.monotonic() - reached > PATIENCE_SECONDS:
                    raise

    def download(self, url: str) -> bytes:
        """Return the bytes of a frame or an artifact.

        Raises:
            ApiError: if it cannot be fetched.
        """
        return self._request("GET", url).content

    def _walk(self, method: str, path: str, **arguments: Any) -> Walk:
        response = self._request(method, path, **arguments)
        try:
            walk: Walk = response.json()
        except ValueError as error:
            raise ApiError(f"{response.url} did not answer as MoMALisa does.") from error
        return walk

    def _request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, url, **arguments)
        except httpx.TransportError as error:
            sentence = f"The server at {self._http.base_url} cannot be reached: {error}."
            raise ApiError(sentence, passing=True) from error
        if response.is_error:
            raise ApiError(_reason(response), passing=response.status_code in {429, 502, 503, 504})
        return response


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.method} {response.url} answered {response.status_code}"
