"""The walks of the API: create, read, list, follow, cancel, change and delete."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError

from api import access, cursors, limits, media
from api.dependencies import Base, Caller, Poller, Submitter, WalkId
from api.docs import examples
from api.live import long_polling, watchers
from api.problems import documents
from api.problems.openapi import problem_responses
from api.schemas import requests, views
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.errors import (
    IdempotencyKeyError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    LimitExceededError,
    MomalisaError,
    NotOwnerError,
    StoreUnavailableError,
    TooManyWaitersError,
    UnauthorizedError,
    WalkEndedError,
    WalkExpiredError,
    WalkNotFoundError,
)
from momalisa.queue import catalog, celery_app, estimate
from momalisa.queue.budgets import BudgetExceededError
from momalisa.telemetry.logging import logger
from momalisa.walks import idempotency, queries, service

log = logger(__name__)
router = APIRouter(
    prefix="/v1/walks",
    tags=["Walks"],
    route_class=media.JsonRoute,
    responses=problem_responses(UnauthorizedError, InvalidRequestError, LimitExceededError, StoreUnavailableError),
)

IfNoneMatch = Annotated[str | None, Header(description="`ETag` of the last response.")]
PreferWait = Annotated[int, Depends(long_polling.prefer_wait)]

RECONNECT_MILLISECONDS = 1000
"""When clients of an event stream reconnect after this process has ended it."""

RETRY_AFTER = {"description": "Seconds to wait before the next poll.", "schema": {"type": "integer"}}
ETAG = {
    "description": "Send it as `If-None-Match` to get the full response only if something has changed.",
    "schema": {"type": "string"},
}
NOT_MODIFIED = {"description": "Nothing has changed since the given `ETag`."}
PREFERENCE_APPLIED = {"description": "The `wait` that was applied.", "schema": {"type": "string"}}


async def _idempotency_key(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Requests with the same key and body within 24 hours create one walk.",
            json_schema_extra={
                "pattern": f"^{idempotency.VALID.pattern}$"
            },  # documented here; `idempotency.check` answers 400
            examples=["4f0c2a1e-giraffe"],
        ),
    ] = None,
) -> tuple[str, bytes] | None:
    """Return the idempotency key of a request and its raw body, or None if it has no key."""
    if idempotency_key is None:
        return None
    idempotency.check(idempotency_key)
    return idempotency_key, await request.body()


IdempotencyKey = Annotated[tuple[str, bytes] | None, Depends(_idempotency_key)]


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    summary="Create a walk",
    responses={
        HTTPStatus.ACCEPTED.value: {
            "description": "The walk is queued. Poll its `Location` until it is `done`.",
            "headers": {
                "Location": {"description": "URL of the walk.", "schema": {"type": "string"}},
                "Retry-After": RETRY_AFTER,
                "Preference-Applied": PREFERENCE_APPLIED,
            },
            "links": {
                name: {"operationId": name, "parameters": {"walk_id": "$response.body#/id"}}
                for name in ("read_walk", "follow_walk", "cancel_walk", "change_walk", "delete_walk")
            },
            **examples.content(examples.QUEUED),
        },
        **problem_responses(
            IdempotencyKeyError,
            InvalidRequestError,
            IdempotencyKeyReusedError,
        ),
    },
)
async def create_walk(
    body: requests.WalkRequest,
    request: Request,
    response: Response,
    afterwards: BackgroundTasks,
    base: Base,
    caller: Submitter,
    idempotent: IdempotencyKey,
    seconds: PreferWait,
) -> views.SubmittedWalk:
    """Queue a walk and respond at once; its frames are rendered in batches, coarse to fine.

    With `Prefer: wait=N` the response shows the walk when it is done, or its state after N seconds. Of variations,
    that is the first.
    """
    walk, viewer = await run_in_threadpool(submit, body, request, response, afterwards, base, caller, idempotent)
    if not seconds:
        return walk
    response.headers["Preference-Applied"] = f"wait={seconds}"
    # Workers must be woken before the response; a hanging broker takes time from the wait only.
    await asyncio.gather(long_polling.until_done(request, walk.id, viewer, seconds), afterwards())
    afterwards.tasks.clear()
    seen = await run_in_threadpool(_read, walk.id, base, viewer.owner)
    if seen.done:
        del response.headers["Retry-After"]
    return views.SubmittedWalk(**dict(seen), variations=walk.variations)


def submit(
    body: requests.WalkRequest,
    request: Request,
    response: Response,
    afterwards: BackgroundTasks,
    base: str,
    caller: access.Owner,
    idempotent: tuple[str, bytes] | None = None,
) -> tuple[views.SubmittedWalk, access.Caller]:
    """Submit a walk, and return it with the caller who may view it."""
    count = body.variations or 1
    limits.check_variations(count)

    def prepare(source: Walk | None, on_offer: catalog.Catalog) -> service.NewWalk:
        new = (body if source is None else _merged(body, source)).new_walk(on_offer)
        limits.count_walk(request.scope, caller.tenant, new)
        return new

    try:
        submitted = service.submit(
            prepare,
            owner=caller.owner,
            tenant=caller.tenant,
            known=caller.known,
            from_walk=body.from_walk,
            count=count,
            idempotent=idempotent
            and idempotency.identify(
                *idempotent, owner=caller.owner, tenant=caller.tenant, known=caller.known, public=body.public
            ),
        )
    except BudgetExceededError as error:
        limits.show_budgets(request.scope, error.budgets)
        raise
    limits.show_budgets(request.scope, submitted.budgets)
    made = [(submitted.walk, submitted.estimate), *submitted.variations]
    first, *others = (views.view(each, ahead, base, viewer=submitted.viewer) for each, ahead in made)
    walk = views.SubmittedWalk(**dict(first), variations=others)
    if submitted.new:
        access.set_visitor_cookie(request, response, caller)
        log.info("walk queued", walk=str(walk.id), frames=walk.frames_total, walks=count)
        # After the response: a hanging broker must not delay it.
        chunks = sum(len({frame.chunk for frame in each.frames}) for each, _ in made)
        afterwards.add_task(celery_app.publish, ChunkKind.RENDER, chunks, walk.model)
    response.headers["Location"] = walk.urls.self
    response.headers["Retry-After"] = "1"
    return walk, access.Caller(submitted.viewer, caller.tenant, caller.key)


def _merged(body: requests.WalkRequest, source: Walk) -> requests.WalkRequest:
    try:
        return body.starting_from(source)
    except ValidationError as error:
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        ) from error


@router.get(
    "/{walk_id}",
    summary="Get a walk",
    response_model=views.WalkView,
    responses={
        HTTPStatus.OK.value: {
            "headers": {
                "ETag": ETAG,
                "Retry-After": {
                    **RETRY_AFTER,
                    "description": "Seconds to wait before the next poll; not sent when the walk is done.",
                },
                "Preference-Applied": PREFERENCE_APPLIED,
            },
            **examples.content(examples.WALK),
        },
        HTTPStatus.NOT_MODIFIED.value: NOT_MODIFIED,
        **problem_responses(WalkNotFoundError, WalkExpiredError),
    },
)
async def read_walk(
    walk_id: WalkId,
    request: Request,
    response: Response,
    base: Base,
    caller: Poller,
    seconds: PreferWait,
    if_none_match: IfNoneMatch = None,
) -> views.WalkView | Response:
    """Return the state of a walk, with the frames that exist. Poll until it is `done`."""
    read = partial(_read, walk_id, base)
    walk = None
    if seconds:
        seen, walk = await long_polling.for_change(
            request, walk_id, caller, if_none_match, seconds, read, shared_by=base
        )
    else:
        seen = await run_in_threadpool(long_polling.snapshot, walk_id, caller)
    headers = {"ETag": long_polling.etag(seen)}
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    if not seen.status.done:
        headers["Retry-After"] = str(long_polling.retry_after(seen))
    if long_polling.matches(if_none_match, seen):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    response.headers.update(headers)
    return walk if walk is not None else await run_in_threadpool(read, caller.owner)


def _read(walk_id: UUID, base: str, viewer: str | None) -> views.WalkView:
    with transaction() as session:
        walk = queries.get(session, walk_id, viewer=viewer)
        ahead = estimate.estimate(session, walk)
    return views.view(walk, ahead, base, viewer=viewer)


async def _followed_walk(walk_id: WalkId, caller: Poller) -> AsyncIterator[UUID]:
    """Check the walk before the stream begins, because a stream cannot report errors by its status."""
    await run_in_threadpool(long_polling.snapshot, walk_id, caller)
    with watchers.slot(caller):
        yield walk_id


@router.get(
    "/{walk_id}/events",
    summary="Follow a walk",
    response_class=EventSourceResponse,
    responses={
        HTTPStatus.OK.value: {
            "description": "A stream that ends when the walk is done. If it ends earlier, its last event says why: "
            "`gone` if the walk was deleted or has expired, `error` if the stream cannot continue, both with a "
            "problem document; or `retry` without an event if this server is shutting down: reconnect.",
            "content": {"text/event-stream": {"example": 'event: walk\nid: 3\ndata: {"status": "running", …}\n\n'}},
        },
        **problem_responses(WalkNotFoundError, WalkExpiredError, StoreUnavailableError, TooManyWaitersError),
    },
)
async def follow_walk(
    walk_id: Annotated[UUID, Depends(_followed_walk)],
    base: Base,
    caller: Poller,
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event that was received; the stream continues after it.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream a walk as server-sent events: one `walk` event for each change, until it is done."""
    known = last_event_id
    read = partial(_read, walk_id, base)
    try:
        with watchers.watched(walk_id, caller) as watch:
            look = await watch.now(caller)
            while not watchers.ending():
                seen = look.snapshot()
                if str(seen.revision) != known:
                    known = str(seen.revision)
                    walk = await watch.read(look, base, read)
                    yield ServerSentEvent(event="walk", id=known, raw_data=walk.model_dump_json())
                if seen.status.done:
                    return
                look = await watch.after(look, long_polling.MAX_WAIT_SECONDS)
    except MomalisaError as error:
        event = "gone" if isinstance(error, WalkNotFoundError | WalkExpiredError) else "error"
        yield ServerSentEvent(event=event, raw_data=documents.problem(error).model_dump_json(exclude_defaults=True))
    else:
        yield ServerSentEvent(retry=RECONNECT_MILLISECONDS)


@router.post(
    "/{walk_id}/cancel",
    summary="Cancel a walk",
    responses={
        HTTPStatus.OK.value: examples.content(examples.CANCELED),
        **problem_responses(NotOwnerError, WalkNotFoundError, WalkEndedError, WalkExpiredError),
    },
)
def cancel_walk(walk_id: WalkId, base: Base, caller: Caller) -> views.WalkView:
    """Cancel one of your walks; its rendered frames stay. A walk that has succeeded or failed is a conflict."""
    with transaction() as session:
        walk = service.cancel(session, walk_id, owner=caller.owner)
        ahead = estimate.estimate(session, walk)
    return views.view(walk, ahead, base, viewer=caller.owner)


@router.patch(
    "/{walk_id}",
    summary="Make a walk public or private",
    responses={
        HTTPStatus.OK.value: examples.content(examples.PRIVATE),
        **problem_responses(NotOwnerError, WalkNotFoundError, WalkExpiredError),
    },
)
def change_walk(walk_id: WalkId, body: requests.WalkChange, base: Base, caller: Caller) -> views.WalkView:
    """Make one of your walks public or private; when it becomes private, its URLs stop working within minutes."""
    with transaction() as session:
        walk = service.set_public(session, walk_id, body.public, owner=caller.owner)
        ahead = estimate.estimate(session, walk)
    return views.view(walk, ahead, base, viewer=caller.owner)


@router.delete(
    "/{walk_id}",
    summary="Delete a walk",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problem_responses(NotOwnerError, WalkNotFoundError, WalkExpiredError),
)
def delete_walk(walk_id: WalkId, caller: Caller) -> None:
    """Cancel one of your walks if it is active, and delete it with all its files."""
    with transaction() as session:
        service.delete(session, walk_id, owner=caller.owner)


@router.get(
    "",
    summary="List walks",
    responses={
        HTTPStatus.OK.value: {
            "headers": {
                "Link": {"description": 'URL of the next page, as `rel="next"`.', "schema": {"type": "string"}},
                "ETag": ETAG,
            },
            "links": {
                "next": {"operationId": "list_walks", "parameters": {"cursor": "$response.body#/next_cursor"}}
            },
            **examples.content(examples.PAGE),
        },
        HTTPStatus.NOT_MODIFIED.value: NOT_MODIFIED,
    },
)
def list_walks(
    request: Request,
    response: Response,
    base: Base,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=100, description="Walks per page.")] = 20,
    cursor: Annotated[
        str | None, Query(max_length=cursors.MAX_CURSOR, description="`next_cursor` of the previous page.")
    ] = None,
    status: Annotated[WalkStatus | None, Query(description="Only walks with this status.")] = None,
    mine: Annotated[bool, Query(description="Only your own walks, public or not.")] = False,
    from_walk: Annotated[
        UUID | None, Query(description="Only walks that started from this one, with your own that are not public.")
    ] = None,
    q: Annotated[
        str | None,
        Query(
            max_length=100,
            description="Only walks with a prompt that contains this text, ignoring case. Counts as five requests.",
        ),
    ] = None,
    if_none_match: IfNoneMatch = None,  # noqa: ARG001 - documented here, handled by `etags.EntityTags`
) -> views.WalkPage:
    """List public walks, or your own, newest first."""
    if mine and caller.owner is None:
        return views.WalkPage(walks=[], next_cursor=None)
    before = None if cursor is None else cursors.decode(cursor)
    with transaction() as session:
        walks = queries.list_walks(
            session,
            limit=limit + 1,
            before=before,
            status=status,
            viewer=caller.owner,
            owner=caller.owner if mine else None,
            source=from_walk,
            text=q or "",
        )
    shown = walks[:limit]
    next_cursor = cursors.encode(shown[-1]) if len(walks) > limit else None
    if next_cursor is not None:
        url = request.url.include_query_params(cursor=next_cursor)
        response.headers["Link"] = f'<{base}{url.path}?{url.query}>; rel="next"'
    return views.WalkPage(walks=views.summaries(shown, base, viewer=caller.owner), next_cursor=next_cursor)
