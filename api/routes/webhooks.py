"""The signing secret of webhooks."""

from http import HTTPStatus

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.dependencies import Caller
from api.docs import examples
from api.problems.openapi import problem_responses
from momalisa.errors import LimitExceededError, StoreUnavailableError, UnauthorizedError, WebhooksOffError
from momalisa.webhooks import sender

router = APIRouter(prefix="/v1", tags=["Webhooks"])


class WebhookSecret(BaseModel):
    """The secret that signs the webhooks of a caller."""

    secret: str = Field(description="In the format of the Standard Webhooks libraries. Keep it secret.")


@router.get(
    "/webhook-secret",
    summary="Get the secret of your webhooks",
    responses={
        HTTPStatus.OK.value: examples.content({"secret": "whsec_ubRNeyjxnCbWSsmoVhwhmAUBTSH93YrOBQ3Zl1zkPC4="}),
        **problem_responses(UnauthorizedError, WebhooksOffError, LimitExceededError, StoreUnavailableError),
    },
)
def read_webhook_secret(response: Response, caller: Caller) -> WebhookSecret:
    """Return the secret that signs your webhooks; each API key and each visitor has its own."""
    if caller.owner is None:
        raise UnauthorizedError("Send an API key, or the cookie that was set when you created your first walk.")
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(secret=sender.signing_secret(caller.owner))
