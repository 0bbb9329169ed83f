"""A walk's settings: everything that decides its pixels, each declared once, for all who offer or use it."""

import hashlib
import json
import re
from collections.abc import Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from momalisa.domain.path import Easing, Loop, Timing, leg, path_progress

Pacing = Literal["even", "linear"]
"""Equal steps to the eye, or equal steps between the prompts' embeddings."""

Interpolation = Literal["lerp", "slerp"]
"""Between embeddings: on the straight line, or on the arc."""

Scheduler = Literal["ddim", "deis", "dpmpp_2m", "euler", "heun", "pndm", "unipc"]
"""Samplers that draw no noise after the first."""


MAX_STOPS = 10

MAX_MODEL = 300
"""Characters of the name of a model."""

MAX_SEED = 2**32 - 1


class Setting:
    """How a field of `WalkSpec` is chosen; the request, the response and the command line derive from it."""

    def __init__(
        self, description: str, default: object = None, *, answer: str | None = None, **limits: Any
    ) -> None:
        """Describe a setting.

        Args:
            description: what it does, for who makes a walk.
            default: what a request gets that leaves it out; None if the server chooses.
            answer: its description where a walk is shown, if its name does not say enough.
            limits: of a value, as `pydantic.Field` takes them.
        """
        self.description = description
        self.default = default
        self.answer = answer
        self.limits = limits


class WalkSpec(BaseModel):
    """A walk as it was ordered, every default filled in.

    Each field with a `Setting` is offered by the API and the command line. A default here is for walks that were
    stored before the field was added.
    """

    model_config = ConfigDict(frozen=True)

    model: Annotated[
        str,
        Setting("Name of the model, one of `GET /v1/models`; the default one if left out.", max_length=MAX_MODEL),
    ] = ""
    """Also in a column of its own, where it is never empty (`Walk.model`)."""
    prompts: tuple[str, ...]
    """The stops, at least two."""
    weights: Annotated[
        tuple[float, ...] | None,
        Setting(
            "How long the walk lingers at each stop, one number a prompt, of which only the ratios count; equally "
            "long if left out.",
            max_length=MAX_STOPS,
        ),
    ] = None
    loop: Annotated[
        Loop,
        Setting(
            "What follows the last stop: the first frame again, the way back without a frame shown twice in a row "
            "(pingpong), or a leg to the first stop (closed).",
            "none",
        ),
    ] = "none"
    frames: Annotated[int, Setting("Frames that are rendered; every stop has one.", 24, ge=2, le=240)]
    pacing: Annotated[
        Pacing, Setting("Steps that are equal to the eye, or equal between the prompts' embeddings.", "even")
    ] = "linear"
    easing: Annotated[
        Easing, Setting("Whether each leg is walked at one speed, or slowly where it begins or ends.", "linear")
    ] = "linear"
    hold: Annotated[
        int,
        Setting("How many frames longer each stop is shown; nothing more is rendered.", 0, ge=0, le=100),
    ] = 0
    interpolation: Annotated[
        Interpolation, Setting("Between two embeddings: on the straight line, or on the arc.", "lerp")
    ] = "lerp"
    seed: Annotated[
        int, Setting("Seed of the noise that every frame starts from; drawn if left out.", ge=0, le=MAX_SEED)
    ]
    seed_to: Annotated[
        int | None,
        Setting("Seed of a noise to travel to; the noise stays the same if left out.", ge=0, le=MAX_SEED),
    ] = None
    negative_prompt: Annotated[str, Setting("What the pictures should not show.", "")]
    steps: Annotated[int, Setting("Denoising steps of each frame.", ge=1, le=100)]
    guidance: Annotated[
        float, Setting("How closely the pictures follow the words.", ge=0, le=20, allow_inf_nan=False)
    ]
    """Scale of classifier-free guidance; 1 or less means none."""
    scheduler: Annotated[
        Scheduler | None,
        Setting("The sampler; the model's own if left out.", answer="Null is the model's own."),
    ] = None
    width: Annotated[
        int,
        Setting(
            "Width in pixels; the model's own size if left out.", answer="Pixels.", ge=64, le=2048, multiple_of=8
        ),
    ]
    height: Annotated[
        int,
        Setting(
            "Height in pixels; the model's own size if left out.", answer="Pixels.", ge=64, le=2048, multiple_of=8
        ),
    ]
    fps: Annotated[int, Setting("Frames per second of the animation.", 12, ge=1, le=50)]

    @property
    def stops(self) -> tuple[str, ...]:
        """The prompts in the order of the walk; a closed one ends at the first again."""
        return self.prompts + self.prompts[:1] if self.loop == "closed" else self.prompts

    @property
    def timing(self) -> Timing:
        """How positions on the walk map to its segments."""
        weights = self.weights or (1.0,) * len(self.prompts)
        closed = self.loop == "closed"
        return Timing(weights + weights[:1] if closed else weights, easing=self.easing, closed=closed)

    @property
    def frames_shown(self) -> int:
        """Frames of the animation, which shows some rendered ones several times."""
        there = self.frames + self.hold * len(self.prompts)
        back = self.frames - 2 + self.hold * (len(self.prompts) - 2)
        return there + back if self.loop == "pingpong" else there

    def refines(self, other: "WalkSpec") -> bool:
        """Return whether this walk is the other one with as many frames or more, so that it can reuse all."""
        shown: dict[str, object] = {"frames": self.frames, "hold": self.hold, "fps": self.fps}
        if not self.timing.closed and not other.timing.closed:
            shown["loop"] = self.loop
        return other.model_copy(update=shown) == self and self.frames >= other.frames


SETTINGS: dict[str, Setting] = {
    name: setting
    for name, field in WalkSpec.model_fields.items()
    for setting in field.metadata
    if isinstance(setting, Setting)
}
"""By the name of the field."""


def kind(name: str) -> Any:
    """Return the type of a field of `WalkSpec`, apart from None."""
    annotation = WalkSpec.model_fields[name].annotation
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) else annotation


def frame_key(spec: WalkSpec, position: float, model: str, batch_size: int) -> str:
    """Return the content hash of a frame: frames of any walks with equal hashes are the same picture.

    Args:
        spec: the walk.
        position: of the frame.
        model: the revision of the model and its weights.
        batch_size: how many frames are rendered at once.
    """
    number, along = leg(position, len(spec.stops) - 1)
    start, end = spec.stops[number : number + 2]
    between = [start, end, spec.interpolation, round(along, 9)]
    if along in {0, 1}:
        between = [end if along else start]
    noise: list[float] = [spec.seed]
    if spec.seed_to is not None:
        noise += [spec.seed_to, round(path_progress(position, closed=spec.timing.closed), 9)]
    sampling = [spec.negative_prompt, spec.steps, spec.guidance, spec.scheduler, spec.width, spec.height]
    return hashlib.sha256(json.dumps([model, batch_size, between, noise, sampling]).encode()).hexdigest()


def slug(prompts: Sequence[str]) -> str:
    """Return a file name, without an extension, that tells which walk this is: "a-giraffe-to-a-battleship".

    It is plain ASCII of at most 80 characters, so that every file system and HTTP header takes it.
    """
    words = [re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-") for prompt in prompts]
    return "-to-".join(filter(None, words))[:80].strip("-") or "walk"
