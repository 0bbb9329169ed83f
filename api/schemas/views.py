"""Walks as the API shows them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field, create_model

from momalisa.db.models import Walk
from momalisa.domain.model import Model
from momalisa.domain.path import sequence
from momalisa.domain.spec import SETTINGS, WalkSpec
from momalisa.domain.states import ArtifactKind, WalkStatus
from momalisa.queue.catalog import Catalog
from momalisa.queue.estimate import Estimate
from momalisa.storage import bucket
from momalisa.walks import relocation


def _fields() -> dict[str, Any]:
    """Return a field for each setting that is not shown elsewhere."""
    return {
        name: (WalkSpec.model_fields[name].annotation, Field(description=setting.answer))
        for name, setting in SETTINGS.items()
        if name not in {"frames", "model"}
    }


_Settings: Any = create_model("_Settings", **_fields())


class WalkSettings(_Settings):  # which has a field for each setting
    """How the pictures are made, and how they are shown."""


class Progress(BaseModel):
    """How far the walk has come."""

    frames_done: int
    frames_total: int


class Prospect(Progress):
    """How far the walk has come, and what lies ahead of it."""

    queue_position: int | None = Field(
        description="Batches of anybody that come before its first; null once it has started."
    )
    eta_seconds: int | None = Field(description="Time until its last frame; null if nothing is known.")
    waiting_for: str | None = Field(
        description="What has to come before the walk can go on, in a sentence, such as a worker that has its "
        "model; null if nothing has to."
    )
    started_at: datetime | None


class FrameView(BaseModel):
    """A picture on the walk."""

    index: int = Field(description="Its place among the frames that are planned by now; final once all are.")
    position: float = Field(description="Where it lies: 0 at the first stop, 1 at the last. It never changes.")
    url: str | None = Field(description="Null until the frame is there.")
    flagged: bool = Field(
        description="Whether the frame must not be shown, because the model's safety checker flagged it or it came "
        "out black. Once the walk is done, `url` is that of its nearest neighbour, which is held in its place."
    )


class ArtifactView(BaseModel):
    """A file to download."""

    url: str
    bytes: int
    width: int
    height: int


class WalkError(BaseModel):
    """Why the walk failed."""

    code: str = Field(description="Stable, for programs.", examples=["render_failed"])
    message: str = Field(description="A sentence, for people.")


class Urls(BaseModel):
    """Where else to look; relative where the server does not know its own address (see PUBLIC_URL)."""

    self: str = Field(description="This walk in the API.")
    web: str = Field(description="This walk on the website.")


class WalkSummary(BaseModel):
    """A walk, without its frames."""

    id: UUID
    status: WalkStatus
    done: bool = Field(description="Whether the walk is in a final state: stop polling.")
    prompts: list[str]
    frames_total: int
    settings: WalkSettings
    from_walk: UUID | None = Field(description="The walk that it started from, if you may see that one.")
    model: str
    public: bool
    mine: bool = Field(description="Whether you made it: only then you may cancel or remove it.")
    progress: Progress
    artifacts: dict[ArtifactKind, ArtifactView] = Field(description="Empty until the walk has succeeded.")
    urls_expire_at: datetime | None = Field(
        description="Until when the URLs of frames and artifacts hold; look again for new ones. Null: for ever."
    )
    warnings: list[str] = Field(description="What a visitor should know about this walk.")
    error: WalkError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: Urls


class WalkView(WalkSummary):
    """A walk with its frames."""

    progress: Prospect
    frames: list[FrameView] = Field(
        description="Every frame whose place is known, in the order of the walk; with even pacing later ones are "
        "placed by what earlier ones show."
    )
    sequence: list[int] = Field(
        description="The animation, played again and again: the index of each frame that it shows, in order."
    )


class WalkPage(BaseModel):
    """Walks, newest first."""

    walks: list[WalkSummary]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page; null on the last.")


class ModelView(Model):
    """A model that walks can be made with."""

    default: bool = Field(description="Whether walks that name no model are made with it.")
    workers: int = Field(description="Workers that have it now. With none, a walk with the default model waits.")


class ModelList(BaseModel):
    """The models that walks can be made with, the default one first."""

    models: list[ModelView]


def models(catalog: Catalog) -> ModelList:
    """Return the models on offer."""
    return ModelList(
        models=[
            ModelView(
                **dict(model),
                default=model is catalog.default,
                workers=catalog.workers.get(model.name, 0),
            )
            for model in catalog.models
        ]
    )


def summaries(walks: Sequence[Walk], base_url: str, *, viewer: str | None) -> list[WalkSummary]:
    """Return walks in a list as a viewer may see them; `base_url` ends without a slash.

    Raises:
        StoreUnavailableError: if the bucket is private, and URLs cannot be signed just now.
    """
    bucket.sign(artifact.object for walk in walks for artifact in walk.artifacts)
    return [_summary(walk, base_url, viewer) for walk in walks]


def _summary(walk: Walk, base_url: str, viewer: str | None) -> WalkSummary:
    return WalkSummary(
        id=walk.id,
        status=walk.status,
        done=walk.status.done,
        prompts=list(walk.spec.prompts),
        frames_total=walk.frames_total,
        settings=WalkSettings.model_validate(walk.spec, from_attributes=True),
        from_walk=walk.source,
        model=walk.model,
        public=walk.public,
        mine=walk.owner == viewer,
        progress=Progress(frames_done=walk.frames_done, frames_total=walk.frames_total),
        artifacts={
            artifact.kind: ArtifactView(
                url=bucket.url(artifact.object, base_url),
                bytes=artifact.bytes,
                width=artifact.width,
                height=artifact.height,
            )
            for artifact in walk.artifacts
        },
        urls_expire_at=min(filter(None, (bucket.urls_expire_at(), relocation.old_urls_end(walk))), default=None),
        warnings=walk.warnings,
        error=WalkError(code=walk.error_code, message=walk.error_message or "") if walk.error_code else None,
        created_at=walk.created_at,
        started_at=walk.started_at,
        finished_at=walk.finished_at,
        urls=Urls(self=f"{base_url}/v1/walks/{walk.id}", web=f"{base_url}/walks/{walk.id}"),
    )


def view(walk: Walk, ahead: Estimate, base_url: str, *, viewer: str | None) -> WalkView:
    """Return a walk as a viewer may see it; `base_url` ends without a slash.

    Raises:
        StoreUnavailableError: if the bucket is private, and URLs cannot be signed just now.
    """
    bucket.sign([frame.object for frame in walk.frames if frame.object] + [it.object for it in walk.artifacts])
    common = dict(_summary(walk, base_url, viewer))
    progress = Prospect(
        **dict(common.pop("progress")),
        queue_position=ahead.queue_position,
        eta_seconds=ahead.eta_seconds,
        waiting_for=ahead.waiting_for,
        started_at=walk.started_at,
    )
    return WalkView(
        **common,
        progress=progress,
        frames=[
            FrameView(
                index=index,
                position=frame.position,
                url=None if frame.object is None else bucket.url(frame.object, base_url),
                flagged=frame.flagged is not None,
            )
            for index, frame in enumerate(walk.frames)
        ],
        sequence=sequence(
            [frame.position for frame in walk.frames],
            walk.spec.timing.legs,
            hold=walk.spec.hold,
            loop=walk.spec.loop,
        ),
    )
