"""The settings of a walk, each declared once; the API and the command line derive from the declarations."""

import re
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from momalisa.domain.path import Easing, Loop, Timing, leg, seed_progress

Pacing = Literal["even", "linear"]
"""Equal steps to the eye, or equal steps between the prompts' embeddings."""

Interpolation = Literal["lerp", "slerp"]
"""Between embeddings: on the straight line, or on the arc."""

Scheduler = Literal["ddim", "deis", "dpmpp_2m", "euler", "heun", "pndm", "unipc"]
"""Deterministic samplers: they draw no noise after the initial one."""

MAX_STOPS, MAX_FRAMES = 10, 960

MAX_SEED = 2**64 - 1
"""The largest that PyTorch takes."""

LARGE_LINES, LARGE_WIDTH = 1080, 4096
"""Height of a large file, and its maximum width, in pixels; common decoders of H.264 accept no wider one."""

DRAWN_SEEDS = 2**32
"""Seeds that are drawn are below this, so that they are easy to copy."""

MAX_EXACT = 2**53 - 1
"""The largest whole number that JavaScript keeps exactly."""

SAMPLING_SETTINGS = ("steps", "guidance", "scheduler", "width", "height")
"""Settings that decide the pixels of every frame alike, apart from its prompts and its noise."""


def _number(value: object) -> object:
    """Accept digits and 7.0 as a seed."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Seed = Annotated[
    int,
    Field(ge=0, le=MAX_SEED),
    BeforeValidator(_number),
    PlainSerializer(lambda seed: str(seed) if seed > MAX_EXACT else seed, int | str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
                {"type": "string", "pattern": "^[0-9]{1,20}$"},
            ]
        }
    ),
]
"""A seed; in JSON a string of digits if JavaScript would round the number."""

LegFrames = Annotated[int, Field(ge=1, le=MAX_FRAMES)]


class Setting:
    """How a client sets a field of `WalkSpec`; the request, the response and the command line derive from it."""

    def __init__(
        self, description: str, default: object = None, *, help: str, in_response: str | None = None, **limits: Any
    ) -> None:
        """Describe a setting.

        Args:
            description: what it does, for users of the API.
            default: the value if a request omits it; None if the server chooses.
            help: what it does, in a few words for the command line.
            in_response: its description in responses, if its name does not say enough.
            limits: of the value, as `pydantic.Field` takes them.
        """
        self.description = description
        self.default = default
        self.help = help
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
        Setting("Name of the model, one of `GET /v1/models`; the default one if omitted.", help="The model."),
    ] = ""
    """Also in a column of its own, where it is never empty (`Walk.model`)."""
    prompts: tuple[str, ...]
    """The stops, at least two."""
    weights: Annotated[
        tuple[float, ...] | None,
        Setting(
            "How long the walk lingers at each stop: one number per prompt, of which only the ratios matter. Equal "
            "if omitted.",
            help="How long to linger at each stop.",
            max_length=MAX_STOPS,
        ),
    ] = None
    loop: Annotated[
        Loop,
        Setting(
            "What follows the last stop: the first frame again (none), all frames in reverse (pingpong), or a leg "
            "back to the first stop (closed).",
            "none",
            help="What follows the last stop.",
        ),
    ] = "none"
    frames: Annotated[
        int,
        Setting(
            "Number of frames to render; every stop has one.", 24, help="Frames to render.", ge=2, le=MAX_FRAMES
        ),
    ]
    leg_frames: Annotated[
        tuple[LegFrames, ...] | None,
        Setting(
            "Frames of each leg, instead of `frames`: from its stop to just before the next. The last stop is "
            "one more, unless the walk is closed.",
            help="Frames of each leg, instead of --frames.",
            max_length=MAX_STOPS,
        ),
    ] = None
    exact: Annotated[
        bool,
        Setting(
            "Whether to denoise every frame. If not, frames of a dense walk (64 or more a leg) are interpolated "
            "between denoised ones wherever a check shows that the error is within a tolerance; see `made` of each "
            "frame.",
            False,
            help="Denoise every frame.",
        ),
    ] = True
    pacing: Annotated[
        Pacing,
        Setting(
            "Steps of equal visible change, or equal steps between the prompts' embeddings.",
            "even",
            help="Equal steps to the eye, or in embeddings.",
        ),
    ] = "linear"
    easing: Annotated[
        Easing,
        Setting(
            "Speed on each leg: constant, or slow at its start, at its end, or at both.",
            "linear",
            help="Speed on a leg.",
        ),
    ] = "linear"
    hold: Annotated[
        int,
        Setting(
            "Extra frames for which each stop is shown; no more frames are rendered.",
            0,
            help="Frames for which a stop stays.",
            ge=0,
            le=100,
        ),
    ] = 0
    interpolation: Annotated[
        Interpolation,
        Setting(
            "Path between two embeddings: a straight line (lerp) or an arc (slerp).",
            "lerp",
            help="Straight, or on the arc.",
        ),
    ] = "lerp"
    seed: Annotated[
        Seed,
        Setting(
            "Seed of the noise that every frame starts from, below 2⁶⁴; random if omitted. From 2⁵³ on it may be a "
            "string of digits, because JavaScript rounds such numbers.",
            help="Seed of the noise.",
            in_response="A string of digits from 2⁵³ on, because JavaScript rounds such numbers.",
        ),
    ]
    seed_to: Annotated[
        Seed | None,
        Setting(
            "Second seed, to whose noise the whole walk moves; the noise stays the same if omitted.",
            help="Seed to move to.",
        ),
    ] = None
    seeds: Annotated[
        tuple[Seed, ...] | None,
        Setting(
            "A seed for each stop, instead of `seed` and `seed_to`: on each leg the noise moves from one to the "
            "next.",
            help="A seed for each stop, instead of --seed.",
            max_length=MAX_STOPS,
        ),
    ] = None
    negative_prompt: Annotated[str, Setting("What the pictures should not show.", "", help="What not to show.")]
    negative_prompts: Annotated[
        tuple[str, ...] | None,
        Setting(
            "A negative prompt for each stop, instead of `negative_prompt`.",
            help="What not to show at each stop; once per stop.",
            max_length=MAX_STOPS,
        ),
    ] = None
    steps: Annotated[int, Setting("Denoising steps of each frame.", help="Denoising steps.", ge=1, le=100)]
    guidance: Annotated[
        float,
        Setting(
            "How closely the pictures follow the prompts.",
            help="How closely to follow the prompts.",
            ge=0,
            le=20,
            allow_inf_nan=False,
        ),
    ]
    """Scale of classifier-free guidance; 1 or less means none."""
    scheduler: Annotated[
        Scheduler | None,
        Setting(
            "The sampler; the model's own if omitted.",
            help="The sampler.",
            in_response="Null means the model's own.",
        ),
    ] = None
    width: Annotated[
        int,
        Setting(
            "Width in pixels; the model's native size if omitted.",
            help="Width of a frame in pixels.",
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
            help="Height of a frame in pixels.",
            in_response="Pixels.",
            ge=64,
            le=2048,
            multiple_of=8,
        ),
    ]
    fps: Annotated[int, Setting("Frames per second of the animation.", 12, help="Frames per second.", ge=1, le=60)]
    large: Annotated[
        bool,
        Setting(
            f"Whether to make an MP4 and a still of {LARGE_LINES} lines, too, enlarged from the frames.",
            False,
            help=f"Make files of {LARGE_LINES} lines, too.",
        ),
    ] = False

    @property
    def stops(self) -> tuple[str, ...]:
        """The prompts in the order of the walk; a closed one ends at the first again."""
        return self.prompts + self.prompts[:1] if self.loop == "closed" else self.prompts

    @property
    def legs(self) -> int:
        """Number of legs."""
        return len(self.stops) - 1

    @property
    def negatives(self) -> tuple[str, ...]:
        """The negative prompt of each stop, in the order of the walk."""
        each = self.negative_prompts or (self.negative_prompt,) * len(self.prompts)
        return each + each[:1] if self.loop == "closed" else each

    def noise(self, position: float) -> "Noise":
        """Return the noise of the frame at a position."""
        if self.seeds is not None:
            number, t = leg(position, self.legs)
            seeds = self.seeds + self.seeds[:1]
            start, end = seeds[number : number + 2]
        else:
            start, end = self.seed, self.seed if self.seed_to is None else self.seed_to
            t = seed_progress(position, closed=self.timing.closed)
        if t in {0, 1} or start == end:
            return Noise(end if t == 1 else start)
        return Noise(start, end, t)

    @property
    def timing(self) -> Timing:
        """The speed of the walk along its path."""
        weights = self.weights or (1.0,) * len(self.prompts)
        closed = self.loop == "closed"
        return Timing(weights + weights[:1] if closed else weights, easing=self.easing, closed=closed)

    @property
    def large_size(self) -> tuple[int, int] | None:
        """Width and height of the large files; None if they are not asked for, or not larger than the frames."""
        scale = min(LARGE_LINES / self.height, LARGE_WIDTH / self.width)
        if not self.large or scale <= 1:
            return None
        return 2 * round(self.width * scale / 2), 2 * round(self.height * scale / 2)  # H.264 has even sides

    @property
    def frames_shown(self) -> int:
        """Number of frames of the animation, which shows some rendered frames several times."""
        there = self.frames + self.hold * len(self.prompts)
        back = self.frames - 2 + self.hold * (len(self.prompts) - 2)
        return there + back if self.loop == "pingpong" else there

    def refines(self, other: "WalkSpec") -> bool:
        """Return whether this walk is the other one with at least as many frames, so that it can reuse all."""
        shown: dict[str, object] = {name: getattr(self, name) for name in ("frames", *KEEPS_PINS)}
        if not self.timing.closed and not other.timing.closed:
            shown["loop"] = self.loop
        if self.leg_frames and other.leg_frames and len(self.leg_frames) == len(other.leg_frames):
            if any(new < old for new, old in zip(self.leg_frames, other.leg_frames, strict=True)):
                return False
            shown["leg_frames"] = self.leg_frames
        return other.model_copy(update=shown) == self and self.frames >= other.frames


class Noise(NamedTuple):
    """The noise of a frame: that of a seed, or between those of two."""

    start: int
    end: int | None = None
    t: float = 0.0
    """How far it is from the first to the second, in [0, 1]."""


SETTINGS: dict[str, Setting] = {
    name: setting
    for name, field in WalkSpec.model_fields.items()
    for setting in field.metadata
    if isinstance(setting, Setting)
}
"""By the name of the field."""


def field_type(name: str) -> Any:
    """Return the type of a field of `WalkSpec`."""
    kind, *more = get_args(get_type_hints(WalkSpec, include_extras=True)[name])
    more = [each for each in more if not isinstance(each, Setting)]
    return Annotated[(kind, *more)] if more else kind


def value_type(name: str) -> Any:
    """Return the type of a field of `WalkSpec`, apart from None."""
    annotation = field_type(name)
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) else annotation


KEEPS_PINS = frozenset({"exact", "fps", "hold", "large"})
"""Settings that a pinned walk may change: how frames are shown, and whether interpolated ones are denoised."""

FOR_EACH_STOP = ("weights", "seeds", "negative_prompts")
"""Settings with a value for each prompt."""

SHORT_FORMS = {"seeds": ("seed", "seed_to"), "negative_prompts": ("negative_prompt",), "leg_frames": ("frames",)}
"""Settings with a value for each stop or leg, and those that they replace."""

OF_ONE_WALK = ("seed", "seeds", "pinned")
"""What suits a single walk, and not its variations."""


def replaced(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a walk, which may be pinned, changed by given ones.

    What no longer suits those is left out: pins, short forms of lists, lists for other stops.
    """
    gone: set[str] = set()
    for listed, short in SHORT_FORMS.items():
        if given.get(listed) is not None:
            gone |= {*short}
        elif not given.keys().isdisjoint(short):
            gone.add(listed)
    if (given.keys() & {"prompts", *SETTINGS}) - KEEPS_PINS:
        gone.add("pinned")
    if given.get("variations") is not None:
        gone |= {*OF_ONE_WALK}
    now = {**settings, **given}
    if _stops(now) != _stops(settings):
        gone |= {*FOR_EACH_STOP}
    if _legs(now) != _legs(settings):
        gone.add("leg_frames")
    return {**{name: value for name, value in settings.items() if name not in gone}, **given}


def _stops(settings: Mapping[str, Any]) -> int:
    return len(settings.get("prompts") or ())


def _legs(settings: Mapping[str, Any]) -> int:
    return _stops(settings) - (settings.get("loop") != "closed")


def completed(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return given settings with what follows from them, and what of them is a mistake: the field, and why."""
    found, mistakes = dict(given), []
    legs = _legs(given)
    if (seeds := given.get("seeds")) is not None:
        found["seed"] = seeds[0]
        if given.get("seed", seeds[0]) != seeds[0]:
            mistakes.append(
                ("seed", f"must be left out beside seeds, or be the first of them, got {given['seed']}")
            )
        if given.get("seed_to") is not None:
            mistakes.append(("seed_to", "must be left out beside seeds"))
    if given.get("negative_prompts") is not None and given.get("negative_prompt"):
        mistakes.append(("negative_prompt", "must be left out beside negative_prompts"))
    if (steps := given.get("leg_frames")) is not None:
        found["frames"] = total = sum(steps) + (given.get("loop") != "closed")
        if len(steps) != legs:
            mistakes.append(("leg_frames", f"must have one number per leg: {legs}, got {len(steps)}"))
        elif total > MAX_FRAMES:
            mistakes.append(("leg_frames", f"at most {MAX_FRAMES} frames in all, got {total}"))
        elif given.get("frames", total) != total:
            mistakes.append(("frames", f"must be left out beside leg_frames, or be {total}, got {given['frames']}"))
    return found, mistakes
