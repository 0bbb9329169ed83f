"""The settings of a walk, each declared once; the API and the command line derive from the declarations."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from momalisa.domain.path import Easing, Loop, Timing, leg, seed_progress

Pacing = Literal["even", "linear"]
"""Equal steps to the eye, or equal steps between the prompts' embeddings."""

Interpolation = Literal["lerp", "slerp"]
"""Between embeddings: on the straight line, or on the arc."""

Scheduler = Literal["ddim", "deis", "dpmpp_2m", "euler", "heun", "pndm", "unipc"]
"""Deterministic samplers: they draw no noise after the initial one."""

MAX_STOPS = 10

MAX_SEED = 2**32 - 1

SAMPLING_SETTINGS = ("negative_prompt", "steps", "guidance", "scheduler", "width", "height")
"""Settings that decide the pixels of every frame alike, apart from its prompts and its noise."""


class Setting:
    """How a client sets a field of `WalkSpec`; the request, the response and the command line derive from it."""

    def __init__(
        self, description: str, default: object = None, *, in_response: str | None = None, **limits: Any
    ) -> None:
        """Describe a setting.

        Args:
            description: what it does, for users.
            default: the value if a request omits it; None if the server chooses.
            in_response: its description in responses, if its name does not say enough.
            limits: of the value, as `pydantic.Field` takes them.
        """
        self.description = description
        self.default = default
        self.in_response = in_response
        self.limits = limits


class WalkSpec(BaseModel):
    """The settings of a walk, with all defaults filled in.

    Each field with a `Setting` can be set by the API and the command line. The defaults of the fields themselves
    are for walks that were stored before the field was added.
    """

    model_config = ConfigDict(frozen=True)

    model: Annotated[
        str,
        Setting("Name of the model, one of `GET /v1/models`; the default one if omitted."),
    ] = ""
    """Also in a column of its own, where it is never empty (`Walk.model`)."""
    prompts: tuple[str, ...]
    """The stops, at least two."""
    weights: Annotated[
        tuple[float, ...] | None,
        Setting(
            "How long the walk lingers at each stop: one number per prompt, of which only the ratios matter. Equal "
            "if omitted.",
            max_length=MAX_STOPS,
        ),
    ] = None
    loop: Annotated[
        Loop,
        Setting(
            "What follows the last stop: the first frame again (none), all frames in reverse (pingpong), or a leg "
            "back to the first stop (closed).",
            "none",
        ),
    ] = "none"
    frames: Annotated[int, Setting("Number of frames to render; every stop has one.", 24, ge=2, le=240)]
    pacing: Annotated[
        Pacing, Setting("Steps of equal visible change, or equal steps between the prompts' embeddings.", "even")
    ] = "linear"
    easing: Annotated[
        Easing, Setting("Speed on each leg: constant, or slow at its start, at its end, or at both.", "linear")
    ] = "linear"
    hold: Annotated[
        int,
        Setting("Extra frames for which each stop is shown; no more frames are rendered.", 0, ge=0, le=100),
    ] = 0
    interpolation: Annotated[
        Interpolation, Setting("Path between two embeddings: a straight line (lerp) or an arc (slerp).", "lerp")
    ] = "lerp"
    seed: Annotated[
        int, Setting("Seed of the noise that every frame starts from; random if omitted.", ge=0, le=MAX_SEED)
    ]
    seed_to: Annotated[
        int | None,
        Setting(
            "Second seed, to whose noise the walk moves; the noise stays the same if omitted.", ge=0, le=MAX_SEED
        ),
    ] = None
    negative_prompt: Annotated[str, Setting("What the pictures should not show.", "")]
    steps: Annotated[int, Setting("Denoising steps of each frame.", ge=1, le=100)]
    guidance: Annotated[
        float, Setting("How closely the pictures follow the prompts.", ge=0, le=20, allow_inf_nan=False)
    ]
    """Scale of classifier-free guidance; 1 or less means none."""
    scheduler: Annotated[
        Scheduler | None,
        Setting("The sampler; the model's own if omitted.", in_response="Null means the model's own."),
    ] = None
    width: Annotated[
        int,
        Setting(
            "Width in pixels; the model's native size if omitted.",
            in_response="Pixels.",
            ge=64,
            le=2048,
            multiple_of=8,
        ),
    ]
    height: Annotated[
        int,
        Setting(
            "Height in pixels; the model's native size if omitted.",
            in_response="Pixels.",
            ge=64,
            le=2048,
            multiple_of=8,
        ),
    ]
    fps: Annotated[int, Setting("Frames per second of the animation.", 12, ge=1, le=60)]

    @property
    def stops(self) -> tuple[str, ...]:
        """The prompts in the order of the walk; a closed one ends at the first again."""
        return self.prompts + self.prompts[:1] if self.loop == "closed" else self.prompts

    @property
    def timing(self) -> Timing:
        """The speed of the walk along its path."""
        weights = self.weights or (1.0,) * len(self.prompts)
        closed = self.loop == "closed"
        return Timing(weights + weights[:1] if closed else weights, easing=self.easing, closed=closed)

    @property
    def frames_shown(self) -> int:
        """Number of frames of the animation, which shows some rendered frames several times."""
        there = self.frames + self.hold * len(self.prompts)
        back = self.frames - 2 + self.hold * (len(self.prompts) - 2)
        return there + back if self.loop == "pingpong" else there

    def refines(self, other: "WalkSpec") -> bool:
        """Return whether this walk is the other one with at least as many frames, so that it can reuse all."""
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


def value_type(name: str) -> Any:
    """Return the type of a field of `WalkSpec`, apart from None."""
    annotation = WalkSpec.model_fields[name].annotation
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) else annotation


def content_hashes(
    spec: WalkSpec, positions: Sequence[float], model: str, batch_size: int | None = None
) -> tuple[str, ...]:
    """Return the content hashes of frames: frames with equal hashes are the same picture, in whichever walks.

    The other frames in a batch change pixels slightly, so they are part of the hash.

    Args:
        spec: the walk.
        positions: of the frames, in the order in which they are rendered.
        model: the revision of the model and its weights.
        batch_size: how many of them are rendered at once; None means all.
    """
    size = batch_size or len(positions)
    contents = [_content(spec, position) for position in positions]
    sampling = [getattr(spec, name) for name in SAMPLING_SETTINGS]
    return tuple(
        hashlib.sha256(
            json.dumps([model, size, index % size, contents[index - index % size :][:size], sampling]).encode()
        ).hexdigest()
        for index in range(len(positions))
    )


def _content(spec: WalkSpec, position: float) -> list[object]:
    """Return what distinguishes a frame from others of the same settings: the prompts around it, and its noise."""
    number, t = leg(position, len(spec.stops) - 1)
    start, end = spec.stops[number : number + 2]
    between = [start, end, spec.interpolation, round(t, 9)]
    if t in {0, 1}:
        between = [end if t else start]
    noise: list[float] = [spec.seed]
    if spec.seed_to is not None:
        noise += [spec.seed_to, round(seed_progress(position, closed=spec.timing.closed), 9)]
    return [between, noise]


def file_name(prompts: Sequence[str], walk_id: object) -> str:
    """Return the name of a walk's files, without an extension, such as "a-giraffe-to-a-battleship-7f3a".

    It ends in the beginning of the walk's id, so that walks with the same prompts have different names.
    """
    return f"{slug(prompts)}-{str(walk_id)[:4]}"


def slug(prompts: Sequence[str]) -> str:
    """Return prompts as a part of a file name, such as "a-giraffe-to-a-battleship".

    It keeps letters, digits and emoji of all scripts, and has at most 80 characters and 180 bytes, since file
    systems accept names of 255.
    """
    name = "-to-".join(filter(None, map(_hyphenated, prompts)))
    end = min(len(name), 80)
    while len(name[:end].encode()) > 180 or unicodedata.category(name[end : end + 1] or "-")[0] == "M":  # noqa: PLR2004
        end -= 1
    return name[:end].strip("-") or "walk"


def _hyphenated(text: str) -> str:
    """Return a text in lower case with hyphens for spaces and punctuation, and without invisible characters."""
    return "-".join("".join(map(_in_file_names, unicodedata.normalize("NFC", text).lower())).split())


def _in_file_names(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cf", "Sk"}:  # joiners and modifiers of emoji, marks of direction
        return ""
    return character if category[0] in "LMN" or category in {"So", "Cn"} else " "
