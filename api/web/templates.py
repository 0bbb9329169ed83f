"""Rendering of the pages: templates, their Content-Security-Policy, and the settings that they show."""

import json
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.schemas import requests
from momalisa.domain.file_names import slug
from momalisa.domain.model import Model
from momalisa.domain.passes import DENOISED_PER_LEG, FEWEST_FRAMES
from momalisa.queue.estimate import Pace
from momalisa.settings import ROOT, settings
from momalisa.storage import bucket

FRONTEND = ROOT / "frontend"


def _media() -> str:
    """Return the sources of images and videos for a Content-Security-Policy: our own origin and the bucket."""
    return "'self'" if bucket.base_url().startswith("/") else f"'self' {bucket.base_url()}"


def content_security_policy() -> str:
    """Return the policy of pages: they load our own files, and images and videos from the bucket."""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src {_media()}; "
        f"media-src {_media()}; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(FRONTEND / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(template: str, *, status: int = HTTPStatus.OK, **context: Any) -> HTMLResponse:
    """Render a page; it may depend on the viewer, so shared caches must not store it."""
    return HTMLResponse(
        _templates().get_template(template).render(status=int(status), **context),
        status_code=status,
        headers={
            "Content-Security-Policy": content_security_policy(),
            "Cache-Control": "private, no-cache",
            "Vary": "Authorization, Cookie",
            "Referrer-Policy": "same-origin",
        },
    )


def frame(template: str, *, status: int = HTTPStatus.OK, headers: dict[str, str], **context: Any) -> HTMLResponse:
    """Render a page that every site may show in a frame; it has no forms, no cookies and asks for nothing."""
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {_media()}; media-src {_media()}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors *"
    )
    return HTMLResponse(
        _templates().get_template(template).render(status=int(status), **context),
        status_code=status,
        headers={"Content-Security-Policy": policy, **headers},
    )


def accepts_html(request: Request) -> bool:
    """Return whether to answer with a page: a browser sent the request, and not to the API."""
    return not request.scope["path"].startswith("/v1/") and "text/html" in request.headers.get("accept", "")


def problem_page(request: Request, *, status: int, title: str, detail: str) -> HTMLResponse:
    """Render the page that shows an error."""
    return page(
        "problem.html",
        status=status,
        title=title,
        detail=detail,
        path=request.scope["path"],
        kept_days=settings().retention_days,
    )


@cache
def fields() -> dict[str, Any]:
    """Return the schema of each field of a walk's request, with its limits."""
    properties: dict[str, Any] = requests.WalkRequest.model_json_schema()["properties"]
    return {name: _limits(described) for name, described in properties.items()}


def _limits(described: dict[str, Any]) -> dict[str, Any]:
    """Return the limits of a field, even if it may be null."""
    kinds: list[dict[str, Any]] = [kind for kind in described.get("anyOf", []) if kind.get("type") != "null"]
    own = kinds[0] if kinds else {}
    return {**own, **described}


@cache
def pairs() -> list[dict[str, Any]]:
    """Return the pairs that the home page proposes, each with the name of its files in `static/walks/`."""
    listed: list[list[str]] = json.loads((FRONTEND / "pages" / "pairs.json").read_text())
    return [{"prompts": pair, "name": slug(pair)} for pair in listed]


@cache
def long_walk() -> dict[str, Any]:
    """Return how the frames of the long walk on the about page were made (`make figure`)."""
    found: dict[str, Any] = json.loads((FRONTEND / "pages" / "long-walk.json").read_text())
    return found


def choice(model: Model, pace: Pace | None) -> dict[str, Any]:
    """Return what the form shows of a model: its defaults, its sizes, and how fast it renders here."""
    return {
        **model.model_dump(
            include={
                *("name", "steps", "fewest_steps", "most_steps"),
                *("guidance", "guided", "negative_above", "schedulers"),
                *("tokens", "windows"),
            }
        ),
        "knows": _knows(model),
        "sizes": _sizes(model),
        "pace": pace
        and {
            "speed": float(f"{pace.speed:.2g}"),
            "workers": pace.workers,
            "batch": pace.batch,
            "dense": {"from": FEWEST_FRAMES, "denoised": DENOISED_PER_LEG} if model.dense else None,
        },
    }


def _knows(model: Model) -> str:
    """Return what a model can paint, in sentences; empty if that is not known."""
    subjects = f"It knows {len(model.subjects):,} things by name." if model.subjects else ""
    return " ".join(filter(None, [model.about, subjects]))


def _sizes(model: Model) -> list[tuple[int, int]]:
    """Return the sizes that the form offers: square, wide, tall, and the largest that is known to be coherent."""
    side, largest = model.size, model.max_size // model.multiple * model.multiple
    coherent = max(side, min((model.coherent_size or 0) // model.multiple * model.multiple, largest))
    long = min(side * 3 // 2 // model.multiple * model.multiple, largest)
    if model.coherent_size is not None:
        long = min(long, coherent)
    return list(dict.fromkeys([(side, side), (long, side), (side, long), (coherent, coherent)]))
