"""A Python client of the REST API: blocking (`Client`) and asynchronous (`AsyncClient`).

with Client("http://127.0.0.1:8000") as client:
    for walk in client.walk(["a giraffe", "a battleship"], frames=24):
        print(walk["progress"])
    client.save(walk, "gif", Path("walk.gif"))
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, Self, TypedDict
from uuid import uuid4

import httpx

from momalisa import retry_after
from momalisa.errors import MomalisaError

RETRY_SECONDS = 60
"""How long requests are retried while the server is unreachable or busy."""

WAIT_SECONDS = 10
"""How long the server may delay a response until the walk changes."""


class Progress(TypedDict):
    """The progress of a walk."""

    frames_done: int
    frames_total: int
    queue_position: int | None
    eta_seconds: int | None
    waiting_for: str | None
    started_at: str | None


class Frame(TypedDict):
    """A frame of a walk."""

    index: int
    position: float
    url: str | None
    flagged: bool


class Artifact(TypedDict):
    """A file of a finished walk."""

    url: str
    bytes: int
    width: int
    height: int
    enlarged_from: int | None


class WalkError(TypedDict):
    """Why a walk failed."""

    code: str
    message: str


class Walk(TypedDict):
    """A walk as the API returns it; in a list it has no frames."""

    id: str
    status: str
    done: bool
    prompts: list[str]
    frames_total: int
    from_walk: str | None
    settings: dict[str, Any]
    model: str
    public: bool
    progress: Progress
    frames: list[Frame]
    sequence: list[int]
    artifacts: dict[str, Artifact]
    urls_expire_at: str | None
    warnings: list[str]
    error: WalkError | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    urls: dict[str, str]
    variations: NotRequired[list["Walk"]]
    """In the answer to a request for several walks: all but the first."""


class Page(TypedDict):
    """A page of walks, newest first."""

    walks: list[Walk]
    next_cursor: str | None


class ApiError(MomalisaError):
    """The API refused a request or failed; the message is the detail of its problem document."""

    def __init__(
        self,
        message: str,
        *,
        problem: str = "",
        errors: Sequence[dict[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = problem
        """Type of the problem without its path, such as "walk-not-found"; empty if there was no response."""
        self.errors = list(errors)
        """Errors of the fields of the request: {"field", "message"}."""
        self.retry_after = retry_after
        """Seconds after which a retry makes sense, or None if it does not."""


class Client:
    """A client of one MoMALisa server. Methods raise ApiError if it refuses or stays unreachable."""

    def __init__(self, base_url: str, api_key: str | None = None, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._http = httpx.Client(**_settings(base_url, api_key))
        self.retry_seconds = retry_seconds
        """How long requests are retried while the server is unreachable or busy."""
        self._reached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def walk(self, prompts: Sequence[str] | None, **options: Any) -> Iterator[Walk]:
        """Submit a walk, and yield it whenever it changes, until it is done."""
        return self.watch(self.submit(prompts, **options))

    def submit(self, prompts: Sequence[str] | None, **options: Any) -> Walk:
        """Submit a walk; retries make no second one.

        Args:
            prompts: the stops; None, with `from_walk`, means those of that walk.
            options: other fields of the request.
        """
        walk: Walk = self._request(**_submission(prompts, options)).json()
        return walk

    def get(self, walk_id: str) -> Walk:
        """Return a walk."""
        walk: Walk = self._request("GET", f"/v1/walks/{walk_id}").json()
        return walk

    def page(self, *, limit: int = 20, cursor: str | None = None, status: str | None = None) -> Page:
        """Return a page of the gallery."""
        page: Page = self._request(
            "GET", "/v1/walks", params=_present(limit=limit, cursor=cursor, status=status)
        ).json()
        return page

    def watch(self, walk: Walk, *, seconds: int | None = None) -> Iterator[Walk]:
        """Yield a walk as it is, and again whenever it has changed, until it is done.

        With `seconds`, also if it has not changed for that time.
        """
        url, tag = f"/v1/walks/{walk['id']}", None
        yield walk
        while not walk["done"]:
            response = self._request("GET", url, headers=_wait_for_change(tag, seconds or WAIT_SECONDS))
            tag = response.headers["ETag"]
            if response.status_code != httpx.codes.NOT_MODIFIED:
                walk = response.json()
                yield walk
            elif seconds:
                yield walk

    def set_public(self, walk_id: str, public: bool) -> Walk:
        """Make a walk public or private, and return it."""
        walk: Walk = self._request("PATCH", f"/v1/walks/{walk_id}", json={"public": public}).json()
        return walk

    def cancel(self, walk_id: str) -> Walk:
        """Cancel a walk and return it."""
        walk: Walk = self._request("POST", f"/v1/walks/{walk_id}/cancel").json()
        return walk

    def download(self, url: str) -> bytes:
        """Return the bytes of a frame or an artifact."""
        return self._request("GET", url).content

    def save(self, walk: Walk, kind: str, path: Path) -> Artifact:
        """Save an artifact of a finished walk, such as "gif" or "zip", and return its description."""
        artifact = walk["artifacts"][kind]
        path.write_bytes(self.download(artifact["url"]))
        return artifact

    def _request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        retries = _RetryPolicy(self._reached, self.retry_seconds)
        while True:
            try:
                response = _checked(self._http.request(method, url, **arguments))
                self._reached = True
                return response
            except (httpx.TransportError, ApiError) as error:
                time.sleep(retries.pause(error, self._http.base_url))


class AsyncClient:
    """An asynchronous client of one MoMALisa server. Methods raise ApiError like those of `Client`."""

    def __init__(self, base_url: str, api_key: str | None = None, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._http = httpx.AsyncClient(**_settings(base_url, api_key))
        self.retry_seconds = retry_seconds
        """How long requests are retried while the server is unreachable or busy."""
        self._reached = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def walk(self, prompts: Sequence[str] | None, **options: Any) -> AsyncIterator[Walk]:
        """Submit a walk, and yield it whenever it changes, until it is done."""
        async for walk in self.watch(await self.submit(prompts, **options)):
            yield walk

    async def submit(self, prompts: Sequence[str] | None, **options: Any) -> Walk:
        """Submit a walk; retries make no second one.

        Args:
            prompts: the stops; None, with `from_walk`, means those of that walk.
            options: other fields of the request.
        """
        walk: Walk = (await self._request(**_submission(prompts, options))).json()
        return walk

    async def get(self, walk_id: str) -> Walk:
        """Return a walk."""
        walk: Walk = (await self._request("GET", f"/v1/walks/{walk_id}")).json()
        return walk

    async def page(self, *, limit: int = 20, cursor: str | None = None, status: str | None = None) -> Page:
        """Return a page of the gallery."""
        parameters = _present(limit=limit, cursor=cursor, status=status)
        page: Page = (await self._request("GET", "/v1/walks", params=parameters)).json()
        return page

    async def watch(self, walk: Walk) -> AsyncIterator[Walk]:
        """Yield a walk as it is, and again whenever it has changed, until it is done."""
        url, tag = f"/v1/walks/{walk['id']}", None
        yield walk
        while not walk["done"]:
            response = await self._request("GET", url, headers=_wait_for_change(tag, WAIT_SECONDS))
            tag = response.headers["ETag"]
            if response.status_code != httpx.codes.NOT_MODIFIED:
                walk = response.json()
                yield walk

    async def set_public(self, walk_id: str, public: bool) -> Walk:
        """Make a walk public or private, and return it."""
        walk: Walk = (await self._request("PATCH", f"/v1/walks/{walk_id}", json={"public": public})).json()
        return walk

    async def cancel(self, walk_id: str) -> Walk:
        """Cancel a walk and return it."""
        walk: Walk = (await self._request("POST", f"/v1/walks/{walk_id}/cancel")).json()
        return walk

    async def download(self, url: str) -> bytes:
        """Return the bytes of a frame or an artifact."""
        return (await self._request("GET", url)).content

    async def save(self, walk: Walk, kind: str, path: Path) -> Artifact:
        """Save an artifact of a finished walk, such as "gif" or "zip", and return its description."""
        artifact = walk["artifacts"][kind]
        await asyncio.to_thread(path.write_bytes, await self.download(artifact["url"]))
        return artifact

    async def _request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        retries = _RetryPolicy(self._reached, self.retry_seconds)
        while True:
            try:
                response = _checked(await self._http.request(method, url, **arguments))
                self._reached = True
                return response
            except (httpx.TransportError, ApiError) as error:
                await asyncio.sleep(retries.pause(error, self._http.base_url))


class _RetryPolicy:
    """Decides whether and when to retry. All requests of the clients are safe to repeat."""

    def __init__(self, reached: bool, seconds: float) -> None:
        """`reached` is whether the server has answered before: if not, its address may be wrong."""
        self._reached = reached
        self._ends = time.monotonic() + seconds
        self._pause = 0.5

    def pause(self, error: httpx.TransportError | ApiError, base_url: httpx.URL) -> float:
        """Return the seconds to wait before the next try, or raise an ApiError if there is none."""
        if isinstance(error, ApiError):
            wait, refusal = error.retry_after, error
        else:
            wait = self._pause if self._reached else None
            refusal = ApiError(f"The server at {base_url} cannot be reached: {error}.")
            self._pause = min(2 * self._pause, 8.0)
        if wait is None or time.monotonic() + wait > self._ends:
            raise refusal from None
        return wait


class _KeyForItsServer(httpx.Auth):
    """Sends the API key to its server only, and not to the bucket that serves files."""

    def __init__(self, server: httpx.URL, api_key: str) -> None:
        self._server = server
        self._api_key = api_key

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """Yield the request, with the key if it goes to the server."""
        url, server = request.url, self._server
        if (url.scheme, url.host, url.port) == (server.scheme, server.host, server.port):
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        yield request


def _settings(base_url: str, api_key: str | None) -> dict[str, Any]:
    """Return the arguments of an httpx client, the same for both kinds."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ApiError(f"{base_url!r} is not a URL: {error}.") from error
    local = url.host in {"127.0.0.1", "localhost", "::1"}  # never through a proxy
    return {
        "base_url": url,
        "auth": _KeyForItsServer(url, api_key) if api_key else None,
        "timeout": httpx.Timeout(10.0, read=WAIT_SECONDS + 10.0),
        "follow_redirects": True,
        "trust_env": not local,
    }


def _submission(prompts: Sequence[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the request that submits a walk, with an Idempotency-Key."""
    return {
        "method": "POST",
        "url": "/v1/walks",
        "json": ({} if prompts is None else {"prompts": list(prompts)}) | options,
        "headers": {"Idempotency-Key": uuid4().hex},
    }


def _wait_for_change(tag: str | None, seconds: int) -> dict[str, str]:
    """Return the headers of a long poll, which is answered when the entity tag has changed, or after `seconds`."""
    return {} if tag is None else {"If-None-Match": tag, "Prefer": f"wait={seconds}"}


def _present(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _checked(response: httpx.Response) -> httpx.Response:
    """Return a response, or raise its problem as an ApiError."""
    if not response.is_error:
        return response
    try:
        problem = response.json()
        message = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, message = {}, f"{response.request.method} {response.url} answered {response.status_code}"
    temporary = response.status_code in {429, 502, 503, 504}
    wait = retry_after.seconds(response.headers.get("Retry-After", ""))
    raise ApiError(
        message,
        problem=str(problem.get("type", "")).rpartition("/")[2],
        errors=problem.get("errors", ()),
        retry_after=(2.0 if wait is None else wait) if temporary else None,
    )
