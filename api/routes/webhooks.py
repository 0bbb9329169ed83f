"""What a receiver of webhooks needs to know."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from api import access
from api.docs import examples
from api.problems.openapi import problem_responses
from momalisa.errors import LimitExceededError, StoreUnavailableError, UnauthorizedError, WebhooksOffError
from momalisa.webhooks import sender

router = APIRouter(prefix="/v1", tags=["Webhooks"])


class WebhookSecret(BaseModel):
    """What the webhooks of one caller are signed with."""

    secret: str = Field(description="As the libraries of Standard Webhooks take it. Keep it to yourself.")


@router.get(
    "/webhook-secret",
    summary="Get the secret of your webhooks",
    responses={
        HTTPStatus.OK.value: examples.shown({"secret": "whsec_ubRNeyjxnCbWSsmoVhwhmAUBTSH93YrOBQ3Zl1zkPC4="}),
        **problem_responses(UnauthorizedError, WebhooksOffError, LimitExceededError, StoreUnavailableError),
    },
)
def read_webhook_secret(
    response: Response, caller: Annotated[access.Caller, Depends(access.caller)]
) -> WebhookSecret:
    """Tell what your webhooks are signed with: each API key, and each visitor, has a secret of its own."""
    if caller.owner is None:
        raise UnauthorizedError("Send an API key, or the cookie that the answer to your first walk gave you.")
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(secret=sender.signing_secret(caller.owner))
