"""Walks on pages of other sites: the page for their frames, and its description by oEmbed 1.0 (https://oembed.com)."""

from datetime import UTC, datetime
from html import escape
from typing import Annotated, Any
from urllib.parse import quote, urlsplit
from uuid import UUID
from xml.etree import ElementTree

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, JSONResponse, Response

from api.dependencies import Base, Caller
from api.problems import catalog as problems
from api.schemas import views
from api.schemas.views import ArtifactView, WalkSummary
from api.web import templates
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind
from momalisa.errors import (
    FormatNotSupportedError,
    WalkExpiredError,
    WalkNotFoundError,
    WalkPrivateError,
)
from momalisa.walks import queries

router = APIRouter(include_in_schema=False)

WIDTH = 480
"""Usual width of a frame in pixels."""

BESIDE, BELOW = 34, 98
"""Pixels of a frame's width and height that are not the picture's (`embed.css`)."""

NO_LIMIT = 10**9
"""Pixels: more than any picture has."""

SMALLEST = 200
"""Pixels; a frame that must be narrower or lower would show nothing."""

CACHE_SECONDS = 3600
"""How long consumers of oEmbed may keep an answer, unless its URLs expire sooner."""

PUBLIC = {"Cache-Control": "public, no-cache"}
"""These answers do not depend on who asks, and may change at any time."""


@router.get("/walks/{walk_id}/embed")
def embed(walk_id: str, base: Base, _: Caller) -> HTMLResponse:
    """Show a public walk, for a frame on a page of any site.

    A private walk is not shown, even to its owner: what a frame on another site shows must not depend on cookies.
    """
    try:
        walk = _public(identifier(walk_id))
    except (WalkNotFoundError, WalkExpiredError) as error:
        kind = problems.of(error)
        return templates.frame("embed.html", status=kind.status, headers=PUBLIC, walk=None, title=kind.title)
    (seen,) = views.summaries([walk], base, viewer=None)
    return templates.frame("embed.html", headers=PUBLIC, walk=seen, title=_title(seen))


@router.get("/oembed")
def oembed(
    base: Base,
    caller: Caller,
    url: Annotated[str, Query(max_length=1000)],
    kind: Annotated[str, Query(alias="format")] = "json",
    maxwidth: Annotated[int | None, Query(ge=1)] = None,
    maxheight: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """Describe the frame of a walk, given the URL of its page."""
    if kind not in {"json", "xml"}:
        raise FormatNotSupportedError(f"format: must be json or xml, got {kind}.")
    walk_id = identifier(_name(url, base))
    try:
        walk = _public(walk_id)
    except WalkNotFoundError:
        with transaction() as session:
            queries.get(session, walk_id, viewer=caller.owner)  # else others learn that it exists
        raise WalkPrivateError("The walk is private. Make it public to embed it.") from None
    (seen,) = views.summaries([walk], base, viewer=None)
    described = describe(seen, base, maxwidth, maxheight)
    if kind == "json":
        return JSONResponse(described, headers=PUBLIC)
    root = ElementTree.Element("oembed")
    for name, value in described.items():
        ElementTree.SubElement(root, name).text = str(value)
    xml = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return Response(xml, media_type="text/xml", headers=PUBLIC)


def describe(walk: WalkSummary, base: str, width: int | None, height: int | None) -> dict[str, Any]:
    """Return the oEmbed response for a walk whose frame may be at most so wide and high, in pixels.

    A walk without a film, or one with too little room, is only a link.
    """
    title = _title(walk)
    described: dict[str, Any] = {
        "version": "1.0",
        "type": "link",
        "title": title,
        "provider_name": "MoMALisa",
        "provider_url": f"{base}/",
        "cache_age": _cache_age(walk),
    }
    most = (width or NO_LIMIT, height or NO_LIMIT)
    for kind in (ArtifactKind.CARD, ArtifactKind.POSTER):
        if (picture := walk.artifacts.get(kind)) and picture.width <= most[0] and picture.height <= most[1]:
            described |= {"thumbnail_url": picture.url}
            described |= {"thumbnail_width": picture.width, "thumbnail_height": picture.height}
            break
    film = walk.artifacts.get(ArtifactKind.MP4)
    if film is None or min(most) < SMALLEST:
        return described
    wide, high = _frame_size(film, *most)
    html = (
        f'<iframe src="{base}/walks/{walk.id}/embed" width="{wide}" height="{high}" title="{escape(title)}" '
        'loading="lazy" allow="fullscreen" frameborder="0"></iframe>'
    )
    return {**described, "type": "video", "html": html, "width": wide, "height": high}


def _frame_size(film: ArtifactView, width: int, height: int) -> tuple[int, int]:
    """Return the largest size of a frame within limits that shows a film without empty space, in pixels."""
    shape = film.width / film.height
    wide = max(SMALLEST, min(WIDTH, width, BESIDE + round((height - BELOW) * shape)))
    return wide, min(round((wide - BESIDE) / shape) + BELOW, height)


def _cache_age(walk: WalkSummary) -> int:
    if walk.urls_expire_at is None:
        return CACHE_SECONDS
    return max(0, min(CACHE_SECONDS, round((walk.urls_expire_at - datetime.now(UTC)).total_seconds())))


def _title(walk: WalkSummary) -> str:
    return " → ".join(walk.prompts)


def _name(url: str, base: str) -> str:
    """Return the id in the URL of a walk's page on this site.

    Raises:
        WalkNotFoundError: if it is another URL, or if the server does not know its own (PUBLIC_URL).
    """
    try:
        parts, own = urlsplit(url), urlsplit(base)
    except ValueError:  # an invalid address in brackets
        parts = own = urlsplit("")
    place = [part for part in parts.path.removeprefix(own.path).split("/") if part]
    if base and (parts.scheme, parts.netloc.lower()) == (own.scheme, own.netloc.lower()):
        match place:
            case ["walks", name] | ["walks", name, "embed"]:
                return name
    raise WalkNotFoundError(f"There is no walk at {url}: send the URL of a walk's page on this site.")


def identifier(name: str) -> UUID:
    """Return the id of a walk from a URL.

    Raises:
        WalkNotFoundError: if it is none.
    """
    try:
        return UUID(name)
    except ValueError:
        raise WalkNotFoundError(f"There is no walk {name}.") from None


def _public(walk_id: UUID) -> Walk:
    with transaction() as session:
        return queries.get(session, walk_id, viewer=None)


def discovery(url: str, base: str) -> dict[str, str]:
    """Return the links to the description of a page, by media type; none if the server's own URL is unknown."""
    if not base:
        return {}
    return {
        f"{kind}+oembed": f"{base}/oembed?url={quote(url, safe='')}&format={name}"
        for name, kind in (("json", "application/json"), ("xml", "text/xml"))
    }
