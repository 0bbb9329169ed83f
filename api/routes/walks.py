"""Walks: make one, look at one, look at many."""

import base64
import binascii
import json
from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response

from api import problems, schemas
from momalisa import jobs, queue
from momalisa.database import transaction
from momalisa.errors import InvalidFieldError
from momalisa.log import logger
from momalisa.settings import settings
from momalisa.tables import ChunkKind, Walk, WalkStatus
from momalisa.walk import chunks

log = logger(__name__)
router = APIRouter(prefix="/v1/walks", tags=["Walks"])

POLL_SECONDS = 1
"""How long a client should wait before it looks again."""


def _base_url(request: Request) -> str:
    return (settings().public_url or str(request.base_url)).rstrip("/")


def _owner(request: Request) -> str:
    """Return who asks, as the fair order of the queue tells people apart."""
    return f"address:{request.client.host if request.client else 'unknown'}"


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    summary="Make a walk",
    responses={
        HTTPStatus.ACCEPTED.value: {
            "description": "The walk is queued. Poll its `Location` until `done`.",
            "headers": {
                "Location": {"description": "The walk.", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds to wait before polling.", "schema": {"type": "integer"}},
            },
        },
        **problems.responses(
            HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
        ),
    },
)
def create_walk(
    body: schemas.WalkRequest, request: Request, response: Response, afterwards: BackgroundTasks
) -> schemas.WalkView:
    """Queue a walk and answer at once; its frames arrive one batch after the other, coarse to fine."""
    with transaction() as session:
        walk = jobs.create(session, body.spec(), public=body.public, owner=_owner(request))
        answer = schemas.view(jobs.get(session, walk.id), _base_url(request))
    log.info("walk queued", walk=str(walk.id), frames=walk.frames_total)
    # After the answer: a broker that hangs shall not keep a visitor waiting.
    afterwards.add_task(queue.publish, ChunkKind.RENDER, len(chunks(walk.frames_total, settings().batch_size)))
    response.headers["Location"] = answer.urls.self
    response.headers["Retry-After"] = str(POLL_SECONDS)
    return answer


@router.get(
    "/{walk_id}",
    summary="Look at a walk",
    response_model=schemas.WalkView,
    responses={
        HTTPStatus.NOT_MODIFIED.value: {"description": "Nothing has changed since the `ETag` that was given."},
        **problems.responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
def read_walk(
    walk_id: UUID,
    request: Request,
    response: Response,
    if_none_match: Annotated[str | None, Header(description="`ETag` of the last answer.")] = None,
) -> schemas.WalkView | Response:
    """Tell where a walk stands, with the frames that are there. Poll until `done`."""
    with transaction() as session:
        headers = {"ETag": f'W/"{jobs.revision(session, walk_id)}"', "Retry-After": str(POLL_SECONDS)}
        if if_none_match == headers["ETag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        walk = jobs.get(session, walk_id)
        answer = schemas.view(walk, _base_url(request))
    headers["ETag"] = f'W/"{walk.revision}"'
    if answer.done:
        del headers["Retry-After"]
    response.headers.update(headers)
    return answer


@router.post(
    "/{walk_id}/cancel",
    summary="Stop a walk",
    responses=problems.responses(
        HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
    ),
)
def cancel_walk(walk_id: UUID, request: Request) -> schemas.WalkView:
    """Stop a walk; the frames that are there stay. Too late is a conflict; canceling again changes nothing."""
    with transaction() as session:
        return schemas.view(jobs.cancel(session, walk_id), _base_url(request))


@router.get(
    "",
    summary="Look at the gallery",
    responses=problems.responses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
def list_walks(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100, description="Walks on a page.")] = 20,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    status: Annotated[WalkStatus | None, Query(description="Only walks in this state.")] = None,
) -> schemas.WalkPage:
    """List public walks, newest first."""
    with transaction() as session:
        walks = jobs.page(
            session, limit=limit + 1, before=None if cursor is None else _decode_cursor(cursor), status=status
        )
        shown = walks[:limit]
        return schemas.WalkPage(
            walks=[schemas.summary(walk, _base_url(request)) for walk in shown],
            next_cursor=_encode_cursor(shown[-1]) if len(walks) > limit else None,
        )


def _encode_cursor(walk: Walk) -> str:
    place = json.dumps([walk.created_at.isoformat(), str(walk.id)])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        place = base64.urlsafe_b64decode(cursor.encode("ascii") + b"==")
        created_at, walk_id = json.loads(place)
        before = datetime.fromisoformat(created_at)
        if before.tzinfo is None:
            raise ValueError("a time without a zone")
        return before, UUID(walk_id)
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise InvalidFieldError("cursor", "must be the `next_cursor` of another page") from error
