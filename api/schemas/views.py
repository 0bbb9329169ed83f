"""Walks in responses."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field, create_model

from momalisa.db.models import Walk
from momalisa.domain.model import Model
from momalisa.domain.path import sequence
from momalisa.domain.spec import SETTINGS, field_type
from momalisa.domain.states import ENLARGED, ArtifactKind, Made, WalkStatus, made_counts
from momalisa.queue.catalog import Catalog
from momalisa.queue.estimate import Estimate
from momalisa.storage import bucket
from momalisa.walks import relocation


def _fields() -> dict[str, Any]:
    """Return a field for each setting that is not shown elsewhere in a walk."""
    return {
        name: (field_type(name), Field(description=setting.in_response))
        for name, setting in SETTINGS.items()
        if name not in {"frames", "model"}
    }


_Settings: Any = create_model("_Settings", **_fields())


class WalkSettings(_Settings):  # which has a field for each setting
    """The settings of a walk."""


class Progress(BaseModel):
    """The progress of a walk."""

    frames_done: int
    frames_total: int


class ProgressWithEstimate(Progress):
    """The progress of a walk, with estimates."""

    queue_position: int | None = Field(
        description="Number of batches in the queue before its first one; null once it has started."
    )
    eta_seconds: int | None = Field(
        description="Estimated seconds until its last frame is rendered; null if unknown."
    )
    waiting_for: str | None = Field(
        description="What blocks the walk, as a sentence, such as a paused queue or no worker with its model; null "
        "if nothing does."
    )
    started_at: datetime | None


class FrameView(BaseModel):
    """A frame of a walk."""

    index: int = Field(description="Its index among the frames planned so far; final once all frames are planned.")
    position: float = Field(description="Its place on the walk: 0 is the first stop, 1 the last. It never changes.")
    url: str | None = Field(description="Null until the frame is made.")
    made: Made | None = Field(
        description="How it was made: denoised by the model, interpolated between denoised frames, or copied from "
        "another walk that has the same frame. Null until it is made, and if it must not be shown."
    )
    error: float | None = Field(
        description="How much an interpolated frame is expected to differ from a denoised one: mean absolute "
        "difference, in levels of 255. A copy has that of its original. Null for denoised frames, and if it is "
        "unknown, as in walks that are pinned."
    )
    flagged: bool = Field(
        description="Whether the frame must not be shown, because the model's safety checker flagged it or it came "
        "out black. Once the walk is done, `url` is that of its nearest neighbour, which replaces it."
    )


class ArtifactView(BaseModel):
    """A file of a finished walk."""

    url: str
    bytes: int
    width: int
    height: int
    enlarged_from: int | None = Field(description="Height of the frames, if it shows them enlarged; null if not.")


class WalkError(BaseModel):
    """Why the walk failed."""

    code: str = Field(description="A stable code for programs.", examples=["render_failed"])
    message: str = Field(description="A sentence for people.")


class Urls(BaseModel):
    """Related URLs; relative if the server does not know its own address (PUBLIC_URL)."""

    self: str = Field(description="This walk in the API.")
    web: str = Field(description="This walk on the website.")


class WalkSummary(BaseModel):
    """A walk, without its frames."""

    id: UUID
    status: WalkStatus
    done: bool = Field(description="Whether the walk has ended, so that polling can stop.")
    prompts: list[str]
    frames_total: int
    settings: WalkSettings
    from_walk: UUID | None = Field(description="The walk that it started from, if you may see that walk.")
    model: str
    public: bool
    mine: bool = Field(description="Whether you own the walk, and may cancel, change and delete it.")
    progress: Progress
    artifacts: dict[ArtifactKind, ArtifactView] = Field(description="Empty until the walk has succeeded.")
    urls_expire_at: datetime | None = Field(
        description="When the URLs of frames and artifacts expire; get the walk again for new ones. Null: never."
    )
    warnings: list[str] = Field(description="Warnings for users about this walk.")
    error: WalkError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    urls: Urls


class MadeCounts(BaseModel):
    """How the frames of a walk were made so far."""

    denoised: int
    interpolated: int
    copied: int
    error: float | None = Field(
        description="The mean expected error of those that are interpolated; null if none has one."
    )


class WalkView(WalkSummary):
    """A walk with its frames."""

    progress: ProgressWithEstimate
    made: MadeCounts
    frames: list[FrameView] = Field(
        description="All frames planned so far, in the order of the walk; with even pacing, later frames are "
        "placed according to earlier ones."
    )
    sequence: list[int] = Field(
        description="The animation, before it repeats: the index of each frame that it shows, in order."
    )


class SubmittedWalk(WalkView):
    """A walk in the answer to its request."""

    variations: list[WalkView] = Field(
        [], description="The other walks of a request for variations, each like this one but for its seed."
    )


class WalkPage(BaseModel):
    """Walks, newest first."""

    walks: list[WalkSummary]
    next_cursor: str | None = Field(description="The `cursor` of the next page; null on the last one.")


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
    """Return walks without their frames as a viewer may see them; `base_url` has no trailing slash.

    Raises:
        StoreUnavailableError: if the bucket is private, and URLs cannot be signed now.
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
                enlarged_from=walk.spec.height if artifact.kind in ENLARGED else None,
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
    """Return a walk as a viewer may see it; `base_url` has no trailing slash.

    Raises:
        StoreUnavailableError: if the bucket is private, and URLs cannot be signed now.
    """
    bucket.sign([frame.object for frame in walk.frames if frame.object] + [it.object for it in walk.artifacts])
    common = dict(_summary(walk, base_url, viewer))
    progress = ProgressWithEstimate(
        **dict(common.pop("progress")),
        queue_position=ahead.queue_position,
        eta_seconds=ahead.eta_seconds,
        waiting_for=ahead.waiting_for,
        started_at=walk.started_at,
    )
    return WalkView(
        **common,
        progress=progress,
        made=MadeCounts.model_validate(made_counts((frame.made, frame.expected_error) for frame in walk.frames)),
        frames=[
            FrameView(
                index=index,
                position=frame.position,
                url=None if frame.object is None else bucket.url(frame.object, base_url),
                made=frame.made,
                error=frame.expected_error,
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
