"""What goes over the wire: requests with their limits, and answers."""

import secrets
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from momalisa.db.models import Walk
from momalisa.domain.path import Easing, Loop, sequence
from momalisa.domain.spec import Interpolation, Pacing, Scheduler, WalkSpec
from momalisa.domain.states import ArtifactKind, WalkStatus
from momalisa.queue.estimate import Estimate
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.walks import confusables, moderation, relocation
from momalisa.walks.service import Order
from momalisa.webhooks import sender

MAX_PROMPT = 300
"""Characters."""

MAX_MARKS = 6
"""Combining marks in a row; no language piles up more."""

MAX_STOPS = 10

MAX_SEED = 2**32 - 1

MAX_FIELDS = 100
"""In the body of a request, known or not."""

MAX_CURSOR = 200
"""Characters."""

DIRECTION_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e")


def _readable(value: str) -> str:
    """Refuse what cannot be read: control characters, lone surrogates, unassigned code points.

    Overrides of the writing direction are refused too, since they reach into the text around a prompt.
    """
    for position, character in enumerate(value):
        if unicodedata.category(character) in {"Cc", "Cs", "Cn"} or character in DIRECTION_OVERRIDES:
            raise ValueError(
                "control characters, overrides of the writing direction and unassigned code points are not "
                f"allowed, got U+{ord(character):04X} at character {position + 1}"
            )
    if confusables.marks_in_a_row(value) > MAX_MARKS:
        raise ValueError(f"at most {MAX_MARKS} marks may be piled on one letter")
    return value


def _seen(value: str) -> str:
    """Refuse what shows nothing at all."""
    if not confusables.has_visible(value):
        raise ValueError("something visible is needed, got characters that show nothing")
    return value


def _wanted(value: str) -> str:
    """Refuse what the operator's blocklist holds."""
    if found := moderation.find_banned(value):
        raise ValueError(f"“{found}” is not wanted in prompts here")
    return value


def _whole(value: object) -> object:
    """Take 24.0 for 24, as JSON does, which knows numbers of one kind only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Readable = AfterValidator(_readable)
Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT),
    Readable,
    AfterValidator(_seen),
    AfterValidator(_wanted),
]
NegativePrompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_PROMPT),
    Readable,
    AfterValidator(_wanted),  # it is shown beside the walk
]
Weight = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
WebhookUrl = Annotated[str, StringConstraints(max_length=sender.MAX_URL), AfterValidator(sender.checked_url)]


NULL_SAYS_USUAL = frozenset({"weights", "seed", "seed_to", "steps", "guidance", "scheduler", "width", "height"})
"""Fields of which null says: as usual, also where another walk is started from. Elsewhere null says nothing."""


def _documented(schema: dict[str, Any]) -> None:
    """Tell in the schema that every field may be null, and show examples."""
    for name, described in schema["properties"].items():
        if "anyOf" not in described:
            about = {key: described.pop(key) for key in ("title", "description", "default") if key in described}
            schema["properties"][name] = {"anyOf": [described, {"type": "null"}], **about}
    schema["examples"] = [
        {"prompts": ["a giraffe", "a battleship"], "frames": 16, "seed": 7},
        {
            "prompts": ["a rose", "a butterfly", "a hot air balloon"],
            "weights": [1, 2, 1],
            "frames": 48,
            "easing": "ease-in-out",
            "loop": "closed",
        },
    ]


class WalkRequest(BaseModel):
    """A walk to be made."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_documented)

    from_walk: Annotated[UUID, Field(strict=False)] | None = Field(
        None,
        description="A walk to start from: what is left out here is as it was there, and frames that are the same "
        "are taken over from it instead of being rendered.",
    )
    prompts: list[Prompt] | None = Field(
        None,
        min_length=2,
        max_length=MAX_STOPS,
        validate_default=True,
        description="The stops of the walk, in words; usually two. Required, unless `from_walk` names a walk.",
    )
    weights: list[Weight] | None = Field(
        None,
        max_length=MAX_STOPS,
        description="How long the walk lingers at each stop, one number a prompt, of which only the ratios count; "
        "equally long if left out.",
    )
    loop: Loop = Field(
        "none",
        description="What follows the last stop: the first frame again, the way back without a frame shown twice "
        "in a row (pingpong), or a leg to the first stop (closed).",
    )
    frames: Whole = Field(24, ge=2, le=240, description="Frames that are rendered; every stop has one.")
    pacing: Pacing = Field(
        "even",
        description="Steps that are equal to the eye, or equal between the prompts' embeddings.",
    )
    easing: Easing = Field(
        "linear", description="Whether each leg is walked at one speed, or slowly where it begins or ends."
    )
    hold: Whole = Field(
        0,
        ge=0,
        le=100,
        description="How many frames longer each stop is shown; nothing more is rendered.",
    )
    interpolation: Interpolation = Field(
        "lerp", description="Between two embeddings: on the straight line, or on the arc."
    )
    seed: Whole | None = Field(
        None, ge=0, le=MAX_SEED, description="Seed of the noise that every frame starts from; drawn if left out."
    )
    seed_to: Whole | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Seed of a noise to travel to; the noise stays the same if left out.",
    )
    negative_prompt: NegativePrompt = Field("", description="What the pictures should not show.")
    steps: Whole | None = Field(None, ge=1, le=100, description="Denoising steps of each frame.")
    guidance: float | None = Field(
        None, ge=0, le=20, allow_inf_nan=False, description="How closely the pictures follow the words."
    )
    scheduler: Scheduler | None = Field(None, description="The sampler; the model's own if left out.")
    width: Whole | None = Field(
        None, ge=64, le=2048, multiple_of=8, description="Width in pixels; the model's own size if left out."
    )
    height: Whole | None = Field(
        None, ge=64, le=2048, multiple_of=8, description="Height in pixels; the model's own size if left out."
    )
    fps: Whole = Field(12, ge=1, le=50, description="Frames per second of the animation.")
    public: bool = Field(True, description="Whether the walk is shown in the gallery.")
    deadline_seconds: Whole | None = Field(
        None, ge=1, le=7 * 24 * 3600, description="A walk that is not finished after so many seconds fails."
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description="An https URL to which a message is posted when the walk ends: walk.succeeded, walk.failed or "
        "walk.canceled, signed as Standard Webhooks say.",
        examples=["https://example.com/hook"],
    )

    @model_validator(mode="before")
    @classmethod
    def _few_fields_and_null_is_left_out(cls, sent: object) -> object:
        if not isinstance(sent, dict):
            return sent
        if len(sent) > MAX_FIELDS:  # refused at once, not by an error for each of thousands
            raise ValueError(f"at most {MAX_FIELDS} fields, got {len(sent)}")
        silent = WalkRequest.model_fields.keys() - NULL_SAYS_USUAL
        return {name: value for name, value in sent.items() if value is not None or name not in silent}

    @field_validator("width", "height")
    @classmethod
    def _model_can_render(cls, value: int | None) -> int | None:
        if value is not None and value > settings().max_size:
            raise ValueError(f"{settings().model_name} renders at most {settings().max_size} pixels, got {value}")
        return value

    @field_validator("prompts")
    @classmethod
    def _named_or_taken_over(cls, value: list[str] | None, others: ValidationInfo) -> list[str] | None:
        if value is None and others.data.get("from_walk") is None:
            raise ValueError("is required")
        return value

    @field_validator("weights")
    @classmethod
    def _one_for_each_prompt(cls, value: list[float] | None, others: ValidationInfo) -> list[float] | None:
        prompts = others.data.get("prompts")
        if value is not None and prompts is not None and len(value) != len(prompts):
            raise ValueError(f"one for each prompt, {len(prompts)}, got {len(value)}")
        return value

    @field_validator("frames")
    @classmethod
    def _every_stop_has_a_frame(cls, value: int, others: ValidationInfo) -> int:
        stops = len(others.data.get("prompts") or ())
        if value < stops:
            raise ValueError(f"at least the number of prompts, {stops}, got {value}")
        return value

    def starting_from(self, walk: Walk) -> "WalkRequest":
        """Return the request with what it leaves out as it is in a walk.

        Raises:
            pydantic.ValidationError: if the two do not go together.
        """
        given = self.model_dump(mode="json", exclude_unset=True)
        found = {**walk.spec.model_dump(mode="json"), "public": walk.public}
        if len(given.get("prompts", found["prompts"])) != len(found["prompts"]):
            del found["weights"]
        return WalkRequest.model_validate({**found, **given})

    def order(self) -> Order:
        """Return the walk with every choice made; where there is a walk to start from, after `starting_from`."""
        return Order(self._spec(), self.public, self.deadline_seconds, self.webhook_url)

    def _spec(self) -> WalkSpec:
        assert self.prompts is not None
        return WalkSpec(
            prompts=tuple(self.prompts),
            weights=None if self.weights is None else tuple(self.weights),
            frames=self.frames,
            pacing=self.pacing,
            easing=self.easing,
            hold=self.hold,
            loop=self.loop,
            interpolation=self.interpolation,
            seed=secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed,
            seed_to=self.seed_to,
            negative_prompt=self.negative_prompt,
            steps=self.steps or settings().default_steps,
            guidance=settings().default_guidance if self.guidance is None else self.guidance,
            scheduler=self.scheduler,
            width=self.width or settings().image_size,
            height=self.height or settings().image_size,
            fps=self.fps,
        )


class WalkSettings(BaseModel):
    """How the pictures are made, and how they are shown."""

    weights: list[float] | None
    pacing: Pacing
    easing: Easing
    hold: int
    loop: Loop
    interpolation: Interpolation
    seed: int
    seed_to: int | None
    negative_prompt: str
    steps: int
    guidance: float
    scheduler: Scheduler | None = Field(description="Null is the model's own.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    fps: int


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


class WalkChange(BaseModel):
    """What can be changed of a walk once it is made."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"public": False}]})

    public: bool = Field(description="Whether everyone may see the walk, or only you.")


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


def summaries(walks: Sequence[Walk], base_url: str, *, viewer: str | None) -> list[WalkSummary]:
    """Return what the API tells a viewer about walks in a list; `base_url` ends without a slash.

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
    """Return all that the API tells a viewer about a walk; `base_url` ends without a slash.

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
