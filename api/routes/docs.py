"""The reference of the API."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from api.dependencies import Base, Place
from api.docs import reference
from api.web import templates

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs(request: Request, base: Base, place: Place) -> HTMLResponse:
    """Show the operations of the API and its schemas, from the OpenAPI document."""
    return templates.page("docs.html", base=base, place=place, reference=reference.of(request.app))
