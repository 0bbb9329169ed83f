"""Descriptions of the problem types, at the URL of each `type`."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.problems import catalog
from api.web import templates

router = APIRouter(include_in_schema=False)


@router.get(catalog.PATH + "{name}")
def problem_type(name: str, request: Request) -> Response:
    """Return the description of a problem type: a page for browsers, else JSON."""
    kind = catalog.by_slug().get(name)
    if kind is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    if templates.accepts_html(request):
        page = templates.page("problem-type.html", kind=kind)
        page.headers["Vary"] = f"Accept, {page.headers['Vary']}"
        return page
    return JSONResponse(kind.model_dump(mode="json"), headers={"Vary": "Accept", "Cache-Control": "no-cache"})
