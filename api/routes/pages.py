"""The website: one page, for the home and for every walk, and its static files."""

from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse

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
            "X-Content-Type-Options": "nosniff",
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


@router.get("/favicon.ico")
def favicon() -> RedirectResponse:
    """Point browsers that ask by habit to the icon."""
    return RedirectResponse("/static/favicon.svg", status_code=308)
