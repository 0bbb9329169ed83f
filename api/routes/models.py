"""The models that walks can be made with."""

from http import HTTPStatus

from fastapi import APIRouter, Depends

from api import access
from api.docs import examples
from api.problems.openapi import problem_responses
from api.schemas import views
from momalisa.db.session import transaction
from momalisa.errors import LimitExceededError, StoreUnavailableError, UnauthorizedError
from momalisa.queue import catalog

router = APIRouter(prefix="/v1", tags=["Models"])


@router.get(
    "/models",
    summary="List models",
    dependencies=[Depends(access.caller)],
    responses={
        HTTPStatus.OK.value: examples.content({"models": [examples.MODEL]}),
        **problem_responses(UnauthorizedError, LimitExceededError, StoreUnavailableError),
    },
)
def list_models() -> views.ModelList:
    """List the models that `model` of a walk may name, with their limits and defaults; the default one first."""
    with transaction() as session:
        return views.models(catalog.offered(session))
