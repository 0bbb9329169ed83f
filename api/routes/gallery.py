"""The gallery of the website."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from api import cursors
from api.routes.walks import Base, Caller
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

Word = Annotated[str, Query(alias="q", max_length=MAX_WORD)]


@router.get("/gallery")
def gallery(
    caller: Caller,
    base: Base,
    cursor: Annotated[str | None, Query(max_length=cursors.MAX_CURSOR)] = None,
    word: Word = "",
    mine: bool = False,
) -> HTMLResponse:
    """Show walks, newest first, optionally from a cursor on, with a search text, or only one's own."""
    before = None if cursor is None else cursors.decode(cursor)
    word = word.strip()
    walks: Sequence[Walk] = []
    ends: dict[UUID, tuple[str, str]] = {}
    if not mine or caller.owner is not None:
        with transaction() as session:
            walks = queries.list_walks(
                session,
                limit=PAGE_SIZE + 1,
                before=before,
                status=None if mine else WalkStatus.SUCCEEDED,
                viewer=caller.owner,
                owner=caller.owner if mine else None,
                text=word,
            )
            ends = queries.ends(session, [walk.id for walk in walks[:PAGE_SIZE]])
    shown = walks[:PAGE_SIZE]
    kept = ({"q": word} if word else {}) | ({"mine": "true"} if mine else {})
    onward = {**kept, "cursor": cursors.encode(shown[-1])} if len(walks) > PAGE_SIZE else None
    summaries = views.summaries(shown, base, viewer=caller.owner)
    return templates.page(
        "gallery.html",
        walks=summaries,
        pictures=_triptychs(summaries, ends, base),
        base=base,
        word=word,
        mine=mine,
        further=cursor is not None,
        newest="/gallery" + (f"?{urlencode(kept)}" if kept else ""),
        onward=onward and f"/gallery?{urlencode(onward)}",
    )


def _triptychs(
    walks: Sequence[views.WalkSummary], ends: dict[UUID, tuple[str, str]], base: str
) -> dict[UUID, list[str]]:
    """Return the URLs of the first, the middle and the last picture of finished walks.

    The middle one is the poster. A walk of two frames has no other than these.
    """
    bucket.sign(name for names in ends.values() for name in names)
    pictures = {}
    for walk in walks:
        if walk.id in ends:
            first, last = (bucket.url(name, base) for name in ends[walk.id])
            poster = walk.artifacts.get(ArtifactKind.POSTER)
            between = [poster.url] if poster and walk.frames_total > 2 else []  # noqa: PLR2004
            pictures[walk.id] = [first, *between, last]
    return pictures
