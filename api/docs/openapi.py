"""The OpenAPI document: what the framework finds, and what holds for every operation."""

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
    ForeignOriginError,
    HostError,
    InvalidJsonError,
    MethodNotAllowedError,
    MomalisaError,
    TooLargeError,
    TooLargeHeadersError,
    TooLongAddressError,
    TooSlowError,
    UnsupportedMediaTypeError,
)
from momalisa.settings import settings

SITE = "https://github.com/momalisa/momalisa"

HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of the request: name it when you ask an operator about it.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'The limits that the request counts against, such as `"requests";q=600;w=60`: 600 in 60 s.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'What is left of them, such as `"requests";r=599;t=60`: 599, and again all in 60 seconds.',
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
    "Allow": {"description": "The methods of the path.", "schema": {"type": "string"}},
    "WWW-Authenticate": {
        "description": "How to say who you are, and what is wrong with the key that was shown (RFC 6750).",
        "schema": {"type": "string"},
    },
}

SIGNATURE = {
    "webhook-id": "The same however often the message is sent.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "Signed with the secret that `GET /v1/webhook-secret` gives.",
}
"""Headers of a webhook, as Standard Webhooks say."""


class EndedWalk(BaseModel):
    """What a webhook says of a walk."""

    id: str
    status: str
    prompts: list[str]
    error: views.WalkError | None
    urls: views.Urls


class WebhookMessage(BaseModel):
    """What is posted to `webhook_url` when a walk ends."""

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
        "description": f"Set with the first walk that a visitor makes; `{access.GUARDED_COOKIE}` behind https.",
    }
    for path in found["paths"].values():
        for method, operation in path.items():
            _complete(operation, changes=method.upper() not in origin.SAFE_METHODS)
    found["webhooks"] = {event.value: {"post": _webhook(event)} for event in WebhookEvent}
    return found


def _complete(operation: dict[str, Any], *, changes: bool) -> None:
    """Add what holds for every operation, and for those that change something."""
    if changes:
        add_problems(operation, ForeignOriginError, TooLargeError, TooSlowError)
    if "requestBody" in operation:
        add_problems(operation, InvalidJsonError, UnsupportedMediaTypeError)
    add_problems(operation, HostError, TooLongAddressError, TooLargeHeadersError)
    add_problems(operation, MethodNotAllowedError, MomalisaError)
    counted = "security" in operation
    if counted:
        # Visitors need no key, unless ANONYMOUS is off.
        operation["security"] += [{"visitor": []}, {}]
    for status, answer in operation["responses"].items():
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
        answer["headers"] = {**shared, **answer.get("headers", {})}


def _webhook(event: WebhookEvent) -> dict[str, Any]:
    status = event.value.rpartition(".")[2]
    example = {
        "type": event.value,
        "timestamp": "2026-11-23T12:00:04Z",
        "data": {
            "id": examples.WALK_ID,
            "status": status,
            "prompts": examples.WALK["prompts"],
            "error": {"code": "render_failed", "message": "It could not be rendered."}
            if status == "failed"
            else None,
            "urls": examples.WALK["urls"],
        },
    }
    return {
        "summary": f"A walk has {'been ' if status == 'canceled' else ''}{status}",
        "description": "Posted to the `webhook_url` of the walk, with growing pauses for a day until it is taken.",
        "operationId": event.value,
        "tags": ["Webhooks"],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": about, "schema": {"type": "string"}}
            for name, about in SIGNATURE.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/WebhookMessage"}, "example": example}
            },
        },
        "responses": {
            "2XX": {"description": "It was taken."},
            "410": {"description": "Nothing more is to be sent for this walk."},
        },
    }
