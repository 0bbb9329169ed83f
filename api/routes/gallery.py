"""The gallery of the website, and the exhibition: walks of the gallery on a projector, one after the other."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from api import access, cursors
from api.dependencies import Base, Caller, Place
from api.schemas import views
from api.web import templates
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind, WalkStatus
from momalisa.storage import bucket
from momalisa.walks import queries

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 24
"""Walks on a page of the gallery."""

MAX_WORD = 100
"""Characters of a search."""

MAX_EXHIBITS = 50
"""Walks in an exhibition."""

Word = Annotated[str, Query(alias="q", max_length=MAX_WORD)]


@router.get("/gallery")
def gallery(
    caller: Caller,
    base: Base,
    place: Place,
    cursor: Annotated[str | None, Query(max_length=cursors.MAX_CURSOR)] = None,
    word: Word = "",
    mine: bool = False,
    choose: bool = False,
) -> HTMLResponse:
    """Show walks, newest first, optionally from a cursor on, with a search text, or only one's own.

    With `choose`, walks can be chosen for an exhibition.
    """
    before = None if cursor is None else cursors.decode(cursor)
    word = word.strip()
    status = None if mine and not choose else WalkStatus.SUCCEEDED
    walks = _newest(caller, word, mine=mine, status=status, limit=PAGE_SIZE + 1, before=before)
    shown = walks[:PAGE_SIZE]
    with transaction() as session:
        ends = queries.ends(session, [walk.id for walk in shown])
    more = len(walks) > PAGE_SIZE
    summaries = views.summaries(shown, base, viewer=caller.owner)
    return templates.page(
        "gallery.html",
        walks=summaries,
        pictures=_triptychs(summaries, ends, base),
        base=base,
        place=place,
        word=word,
        mine=mine,
        further=cursor is not None,
        choose=choose,
        most=MAX_EXHIBITS,
        address=_address,
        newest=_address(word, mine=mine, choose=choose),
        onward=_address(word, mine=mine, choose=choose, cursor=cursors.encode(shown[-1])) if more else None,
    )


@router.get("/exhibition")
def exhibition(
    caller: Caller,
    base: Base,
    place: Place,
    walks: Annotated[tuple[str, ...], Query()] = (),
    word: Word = "",
    mine: bool = False,
) -> HTMLResponse:
    """Show films of finished walks, one after the other: the chosen ones in this order, or else a wall.

    `walks` are ids, separated by commas or repeated. A walk that the viewer may not see, or that is not finished,
    is left out, and the page says so.
    """
    word = word.strip()
    asked = list(dict.fromkeys(name for value in walks for name in value.split(",") if name))
    shown: Sequence[Walk]
    if asked:
        with transaction() as session:
            shown = queries.chosen(session, _uuids(asked[:MAX_EXHIBITS]), viewer=caller.owner)
    else:
        shown = _newest(caller, word, mine=mine, status=WalkStatus.SUCCEEDED, limit=MAX_EXHIBITS + 1)
    summaries = views.summaries(shown[:MAX_EXHIBITS], base, viewer=caller.owner)
    kinds = [
        next((kind for kind in (ArtifactKind.LARGE, ArtifactKind.MP4) if kind in walk.artifacts), None)
        for walk in summaries
    ]
    return templates.page(
        "exhibition.html",
        exhibits=[(walk, kind) for walk, kind in zip(summaries, kinds, strict=True) if kind],
        missing=len(asked[:MAX_EXHIBITS]) - len(shown) if asked else 0,
        cut=len(asked or shown) > MAX_EXHIBITS,
        most=MAX_EXHIBITS,
        chosen=bool(asked),
        gallery=_address(word, mine=mine),
        base=base,
        place=place,
    )


def _newest(
    caller: access.Caller,
    word: str,
    *,
    mine: bool,
    status: WalkStatus | None,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
) -> Sequence[Walk]:
    """Return the newest walks, those of all or one's own, with a search text or without."""
    if mine and caller.owner is None:
        return []
    with transaction() as session:
        return queries.list_walks(
            session,
            limit=limit,
            before=before,
            status=status,
            viewer=caller.owner,
            owner=caller.owner if mine else None,
            text=word,
        )


def _address(
    word: str = "", *, mine: bool = False, choose: bool = False, cursor: str = "", path: str = "/gallery"
) -> str:
    """Return the address of a wall."""
    given = {"q": word, "mine": "true" if mine else "", "choose": "true" if choose else "", "cursor": cursor}
    kept = urlencode({name: value for name, value in given.items() if value})
    return f"{path}?{kept}" if kept else path


def _uuids(names: Iterable[str]) -> list[UUID]:
    """Return the names that are ids of walks."""
    found = []
    for name in names:
        try:
            found.append(UUID(name))
        except ValueError:
            continue
    return found


def _triptychs(
    walks: Sequence[views.WalkSummary], ends: dict[UUID, tuple[str, str]], base: str
) -> dict[UUID, list[tuple[str, str]]]:
    """Return the URLs of the first, the middle and the last picture of finished walks, and where the API has them.

    The middle one is the poster. A walk of two frames has no other than these.
    """
    bucket.sign(name for names in ends.values() for name in names)
    pictures = {}
    for walk in walks:
        if walk.id in ends:
            first, last = (bucket.url(name, base) for name in ends[walk.id])
            poster = walk.artifacts.get(ArtifactKind.POSTER)
            between = [(poster.url, "artifacts/poster")] if poster and walk.frames_total > 2 else []  # noqa: PLR2004
            pictures[walk.id] = [(first, "frames/0"), *between, (last, f"frames/{walk.frames_total - 1}")]
    return pictures
