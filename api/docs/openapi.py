"""The OpenAPI document: what FastAPI generates, and what all operations have in common."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from api import access
from api.docs import examples
from api.middleware import origin
from api.problems.documents import Problem
from api.problems.openapi import add_problems
from api.schemas import views
from momalisa.domain.states import WebhookEvent
from momalisa.errors import (
    BodyTooLargeError,
    ForeignOriginError,
    HeadersTooLargeError,
    InvalidHostError,
    InvalidJsonError,
    MethodNotAllowedError,
    MomalisaError,
    SlowRequestError,
    UnsupportedMediaTypeError,
    UrlTooLongError,
)
from momalisa.settings import settings

SITE = "https://github.com/momalisa/momalisa"

HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of the request; quote it when you report a problem.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'The limits that the request counts against, such as `"requests";q=600;w=60`: 600 in 60 s.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'What remains of them, such as `"requests";r=599;t=60`: 599, and all of them again in 60 s.',
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
    "Allow": {"description": "The methods of the path.", "schema": {"type": "string"}},
    "WWW-Authenticate": {
        "description": "How to authenticate, and what is wrong with the given key (RFC 6750).",
        "schema": {"type": "string"},
    },
}

SIGNATURE_HEADERS = {
    "webhook-id": "Id of the message; the same at every attempt.",
    "webhook-timestamp": "Time of this attempt, in seconds since 1970.",
    "webhook-signature": "Signature, made with the secret that `GET /v1/webhook-secret` returns.",
}
"""Headers of a webhook, as defined by Standard Webhooks."""


class EndedWalk(BaseModel):
    """The walk in a webhook."""

    id: str
    status: str
    prompts: list[str]
    error: views.WalkError | None
    urls: views.Urls


class WebhookMessage(BaseModel):
    """The message that is posted to `webhook_url` when a walk ends."""

    type: WebhookEvent
    timestamp: str = Field(description="When the walk ended, in UTC.")
    data: EndedWalk


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=[{"url": settings().public_url or "/", "description": "This server."}],
        contact={"name": "MoMALisa", "url": SITE},
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
    )
    components = found["components"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    for model in (Problem, WebhookMessage):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"].update(schema.pop("$defs", {}))
        components["schemas"][model.__name__] = schema
    components["headers"] = HEADERS
    components["securitySchemes"]["visitor"] = {
        "type": "apiKey",
        "in": "cookie",
        "name": access.COOKIE,
        "description": f"Set by the response to a visitor's first walk; `{access.GUARDED_COOKIE}` over https.",
    }
    for path in found["paths"].values():
        for method, operation in path.items():
            _complete(operation, changes=method.upper() not in origin.SAFE_METHODS)
    found["webhooks"] = {event.value: {"post": _webhook(event)} for event in WebhookEvent}
    return found


def _complete(operation: dict[str, Any], *, changes: bool) -> None:
    """Add what all operations have in common, and all that change something."""
    if changes:
        add_problems(operation, ForeignOriginError, BodyTooLargeError, SlowRequestError)
    if "requestBody" in operation:
        add_problems(operation, InvalidJsonError, UnsupportedMediaTypeError)
    add_problems(operation, InvalidHostError, UrlTooLongError, HeadersTooLargeError)
    add_problems(operation, MethodNotAllowedError, MomalisaError)
    counted = "security" in operation
    if counted:
        # Visitors need no API key, unless ANONYMOUS is off.
        operation["security"] += [{"visitor": []}, {}]
    for status, response in operation["responses"].items():
        names = ["X-Request-Id"]
        if counted:
            names += ["RateLimit-Policy", "RateLimit"]
        if status in {"429", "503"}:
            names.append("Retry-After")
        if status == "401":
            names.append("WWW-Authenticate")
        if status == "405":
            names.append("Allow")
        shared = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        response["headers"] = {**shared, **response.get("headers", {})}


def _webhook(event: WebhookEvent) -> dict[str, Any]:
    status = event.value.rpartition(".")[2]
    example = {
        "type": event.value,
        "timestamp": "2026-11-23T12:00:04Z",
        "data": {
            "id": examples.WALK_ID,
            "status": status,
            "prompts": examples.WALK["prompts"],
            "error": {"code": "render_failed", "message": "A part of this walk could not be rendered."}
            if status == "failed"
            else None,
            "urls": examples.WALK["urls"],
        },
    }
    return {
        "summary": f"A walk has {'been ' if status == 'canceled' else ''}{status}",
        "description": "Posted to the `webhook_url` of the walk; retried for a day with growing pauses.",
        "operationId": event.value,
        "tags": ["Webhooks"],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in SIGNATURE_HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/WebhookMessage"}, "example": example}
            },
        },
        "responses": {
            "2XX": {"description": "The message was accepted."},
            "410": {"description": "No more attempts for this walk."},
        },
    }
