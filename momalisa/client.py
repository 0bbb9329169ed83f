"""A Python client of the REST API, for programs that wait (`Client`) and for asynchronous ones (`AsyncClient`).

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
from typing import Any, Self, TypedDict
from uuid import uuid4

import httpx

from momalisa import retry_after
from momalisa.errors import MomalisaError

PATIENCE_SECONDS = 60
"""How long to go on trying while the server is out of reach, where trying again is safe."""

WAIT_SECONDS = 10
"""How long the server may hold an answer back until something changes."""


class Progress(TypedDict):
    """How far a walk has come."""

    frames_done: int
    frames_total: int
    queue_position: int | None
    eta_seconds: int | None
    waiting_for: str | None
    started_at: str | None


class Frame(TypedDict):
    """A picture on a walk."""

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


class WalkError(TypedDict):
    """Why a walk failed."""

    code: str
    message: str


class Walk(TypedDict):
    """A walk as the API tells it; those of a list have no frames."""

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


class Page(TypedDict):
    """Walks, newest first."""

    walks: list[Walk]
    next_cursor: str | None


class ApiError(MomalisaError):
    """The API refused, or could not do, what was asked; the message is what it said."""

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
        """The type of the problem without its path, such as "walk-not-found"; empty if there was no answer."""
        self.errors = list(errors)
        """What is wrong with which field: {"field", "message"}."""
        self.retry_after = retry_after
        """Seconds after which it is worth asking again, or None if it is not."""


class Client:
    """Talks to one MoMALisa server. Methods raise ApiError if it refuses, or stays out of reach."""

    def __init__(
        self, base_url: str, api_key: str | None = None, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._http = httpx.Client(**_settings(base_url, api_key))
        self.patience_seconds = patience_seconds
        """How long a server that is out of reach, or busy, is asked again."""
        self._reached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def walk(self, prompts: Sequence[str] | None, **options: Any) -> Iterator[Walk]:
        """Make a walk, and give it again and again as it changes, until it is done."""
        return self.watch(self.submit(prompts, **options))

    def submit(self, prompts: Sequence[str] | None, **options: Any) -> Walk:
        """Queue a walk, once however often it is sent.

        `options` are the other fields of the request; with `from_walk`, `prompts` may be None: as they were there.
        """
        walk: Walk = self._request(**_order(prompts, options)).json()
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
        """Give a walk as it is now, and again whenever it has changed, until it is done.

        With `seconds`, also when it has not changed for so long.
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
        """Show a walk of yours to everyone, or to yourself only, and return it."""
        walk: Walk = self._request("PATCH", f"/v1/walks/{walk_id}", json={"public": public}).json()
        return walk

    def cancel(self, walk_id: str) -> Walk:
        """Stop a walk and return it."""
        walk: Walk = self._request("POST", f"/v1/walks/{walk_id}/cancel").json()
        return walk

    def download(self, url: str) -> bytes:
        """Return the bytes of a frame or an artifact."""
        return self._request("GET", url).content

    def save(self, walk: Walk, kind: str, path: Path) -> Artifact:
        """Save an artifact of a finished walk, such as "gif" or "zip", and return what the API tells of it."""
        artifact = walk["artifacts"][kind]
        path.write_bytes(self.download(artifact["url"]))
        return artifact

    def _request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        patience = _RetryPolicy(self._reached, self.patience_seconds)
        while True:
            try:
                response = _checked(self._http.request(method, url, **arguments))
                self._reached = True
                return response
            except (httpx.TransportError, ApiError) as error:
                time.sleep(patience.pause(error, self._http.base_url))


class AsyncClient:
    """Talks to one MoMALisa server from asynchronous code. Methods raise ApiError like those of `Client`."""

    def __init__(
        self, base_url: str, api_key: str | None = None, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._http = httpx.AsyncClient(**_settings(base_url, api_key))
        self.patience_seconds = patience_seconds
        """How long a server that is out of reach, or busy, is asked again."""
        self._reached = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def walk(self, prompts: Sequence[str] | None, **options: Any) -> AsyncIterator[Walk]:
        """Make a walk, and give it again and again as it changes, until it is done."""
        async for walk in self.watch(await self.submit(prompts, **options)):
            yield walk

    async def submit(self, prompts: Sequence[str] | None, **options: Any) -> Walk:
        """Queue a walk, once however often it is sent.

        `options` are the other fields of the request; with `from_walk`, `prompts` may be None: as they were there.
        """
        walk: Walk = (await self._request(**_order(prompts, options))).json()
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
        """Give a walk as it is now, and again whenever it has changed, until it is done."""
        url, tag = f"/v1/walks/{walk['id']}", None
        yield walk
        while not walk["done"]:
            response = await self._request("GET", url, headers=_wait_for_change(tag, WAIT_SECONDS))
            tag = response.headers["ETag"]
            if response.status_code != httpx.codes.NOT_MODIFIED:
                walk = response.json()
                yield walk

    async def set_public(self, walk_id: str, public: bool) -> Walk:
        """Show a walk of yours to everyone, or to yourself only, and return it."""
        walk: Walk = (await self._request("PATCH", f"/v1/walks/{walk_id}", json={"public": public})).json()
        return walk

    async def cancel(self, walk_id: str) -> Walk:
        """Stop a walk and return it."""
        walk: Walk = (await self._request("POST", f"/v1/walks/{walk_id}/cancel")).json()
        return walk

    async def download(self, url: str) -> bytes:
        """Return the bytes of a frame or an artifact."""
        return (await self._request("GET", url)).content

    async def save(self, walk: Walk, kind: str, path: Path) -> Artifact:
        """Save an artifact of a finished walk, such as "gif" or "zip", and return what the API tells of it."""
        artifact = walk["artifacts"][kind]
        await asyncio.to_thread(path.write_bytes, await self.download(artifact["url"]))
        return artifact

    async def _request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        patience = _RetryPolicy(self._reached, self.patience_seconds)
        while True:
            try:
                response = _checked(await self._http.request(method, url, **arguments))
                self._reached = True
                return response
            except (httpx.TransportError, ApiError) as error:
                await asyncio.sleep(patience.pause(error, self._http.base_url))


class _RetryPolicy:
    """Decides whether to try again, and when. Every request of the clients is safe to send twice."""

    def __init__(self, reached: bool, seconds: float) -> None:
        """`reached` tells whether the server has ever answered: if not, its address may well be wrong."""
        self._reached = reached
        self._ends = time.monotonic() + seconds
        self._pause = 0.5

    def pause(self, error: httpx.TransportError | ApiError, base_url: httpx.URL) -> float:
        """Return the seconds to wait before the next try, or raise an ApiError if there shall be none."""
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
    """Shows an API key to the server that it is for; the bucket, where files lie, shall not learn it."""

    def __init__(self, server: httpx.URL, api_key: str) -> None:
        self._server = server
        self._api_key = api_key

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """Give the request, with the key if it goes to the server."""
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


def _order(prompts: Sequence[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the request that submits a walk, under a key of its own."""
    return {
        "method": "POST",
        "url": "/v1/walks",
        "json": ({} if prompts is None else {"prompts": list(prompts)}) | options,
        "headers": {"Idempotency-Key": uuid4().hex},
    }


def _wait_for_change(tag: str | None, seconds: int) -> dict[str, str]:
    """Return the headers of a look at a walk that is answered once it is not what `tag` names, or after a while."""
    return {} if tag is None else {"If-None-Match": tag, "Prefer": f"wait={seconds}"}


def _present(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _checked(response: httpx.Response) -> httpx.Response:
    """Return an answer, or raise what it says is wrong."""
    if not response.is_error:
        return response
    try:
        problem = response.json()
        message = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, message = {}, f"{response.request.method} {response.url} answered {response.status_code}"
    passing = response.status_code in {429, 502, 503, 504}
    wait = retry_after.seconds(response.headers.get("Retry-After", ""))
    raise ApiError(
        message,
        problem=str(problem.get("type", "")).rpartition("/")[2],
        errors=problem.get("errors", ()),
        retry_after=(2.0 if wait is None else wait) if passing else None,
    )
