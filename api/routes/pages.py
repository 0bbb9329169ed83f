"""The website: one page, for the home and for every walk; and the documentation of the API."""

import base64
import hashlib
import re
from uuid import UUID

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from momalisa.settings import ROOT, settings

router = APIRouter(include_in_schema=False)

FRONTEND = ROOT / "frontend"


def content_security_policy() -> str:
    """Return what the pages may load: our own files, and pictures from the bucket."""
    bucket = settings().bucket_endpoint or "https://storage.googleapis.com"
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' {bucket}; media-src {bucket}; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def _page() -> FileResponse:
    return FileResponse(
        FRONTEND / "index.html",
        headers={
            "Content-Security-Policy": content_security_policy(),
            "Cache-Control": "no-cache",
            "Referrer-Policy": "same-origin",
        },
    )


@router.get("/")
def home() -> FileResponse:
    """Serve the page on which a walk is made."""
    return _page()


@router.get("/walks/{walk_id}")
def walk(walk_id: UUID) -> FileResponse:  # noqa: ARG001
    """Serve the page of a walk; the browser asks the API for it."""
    return _page()


@router.get("/docs")
def docs() -> HTMLResponse:
    """Serve the documentation of the API; of the scripts in the page, its own may run."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="MoMALisa: the API",
        swagger_js_url="/static-offline-docs/swagger-ui-bundle.js",
        swagger_css_url="/static-offline-docs/swagger-ui.css",
        swagger_favicon_url="/static/favicon.svg",
    )
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    ]
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {' '.join(digests)}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return page


@router.get("/favicon.ico")
def favicon() -> RedirectResponse:
    """Point browsers that ask by habit to the icon."""
    return RedirectResponse("/static/favicon.svg", status_code=308)
