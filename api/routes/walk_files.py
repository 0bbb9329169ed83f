"""Redirects to the files of a walk, which lie in the bucket."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import RedirectResponse

from api.dependencies import Base, Caller, WalkId
from api.problems.openapi import problem_responses
from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind
from momalisa.errors import (
    ArtifactNotFoundError,
    FrameNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    MomalisaError,
    StoreUnavailableError,
    UnauthorizedError,
    WalkExpiredError,
    WalkNotFoundError,
)
from momalisa.storage import bucket
from momalisa.walks import queries

router = APIRouter(
    prefix="/v1/walks",
    tags=["Walks"],
    responses=problem_responses(UnauthorizedError, InvalidRequestError, LimitExceededError, StoreUnavailableError),
)


def _redirect(what: str, missing: type[MomalisaError]) -> dict[int | str, dict[str, Any]]:
    """Return the responses of an operation that redirects to a file of a walk."""
    return {
        HTTPStatus.TEMPORARY_REDIRECT.value: {
            "description": f"The {what} is at `Location`.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **problem_responses(WalkNotFoundError, missing, WalkExpiredError),
    }


@router.get(
    "/{walk_id}/frames/{index}",
    summary="Get a frame",
    status_code=HTTPStatus.TEMPORARY_REDIRECT,
    response_class=RedirectResponse,
    responses=_redirect("picture", FrameNotFoundError),
)
def read_frame(
    walk_id: WalkId,
    index: Annotated[int, Path(description="Index of the frame; 0 is the first stop.", examples=[0])],
    base: Base,
    caller: Caller,
) -> str:
    """Redirect to the picture of a frame: a PNG file that never changes."""
    with transaction() as session:
        frames = queries.get(session, walk_id, viewer=caller.owner).frames
        if not 0 <= index < len(frames):
            raise FrameNotFoundError(f"index: must be 0 to {len(frames) - 1}, got {index}.")
        name = frames[index].object
    if name is None:
        raise FrameNotFoundError(f"Frame {index} of walk {walk_id} has not been rendered yet.")
    return bucket.url(name, base)


@router.get(
    "/{walk_id}/artifacts/{kind}",
    summary="Get a file",
    status_code=HTTPStatus.TEMPORARY_REDIRECT,
    response_class=RedirectResponse,
    responses=_redirect("file", ArtifactNotFoundError),
)
def read_artifact(
    walk_id: WalkId,
    kind: Annotated[ArtifactKind, Path(description="Kind of file.")],
    base: Base,
    caller: Caller,
) -> str:
    """Redirect to a file of a finished walk; it never changes."""
    with transaction() as session:
        walk = queries.get(session, walk_id, viewer=caller.owner)
        found = {artifact.kind: artifact.object for artifact in walk.artifacts}
        status = walk.status
    if kind not in found:
        raise ArtifactNotFoundError(f"Walk {walk_id} has no {kind}; the walk is {status}.")
    return bucket.url(found[kind], base)
