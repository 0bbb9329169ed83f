"""Requests about walks, with the limits of each field; those of settings are declared in `WalkSpec`."""

import secrets
import unicodedata
from typing import Annotated, Any
from uuid import UUID

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from momalisa.db.models import Walk
from momalisa.domain.model import Model
from momalisa.domain.pins import Pins
from momalisa.domain.spec import (
    DRAWN_SEEDS,
    FOR_EACH_STOP,
    MAX_FRAMES,
    MAX_STOPS,
    OF_ONE_WALK,
    SETTINGS,
    LegFrames,
    Seed,
    WalkSpec,
    completed,
    replaced,
    value_type,
)
from momalisa.queue.catalog import Catalog
from momalisa.settings import settings
from momalisa.walks import confusables, moderation
from momalisa.walks.service import NewWalk
from momalisa.webhooks import sender

MAX_PROMPT = 2000
"""Characters: more than most models read. How many words a model reads is up to its tokenizer; walks warn of it."""

MAX_MODEL = 300
"""Characters."""

MAX_MARKS = 6
"""Combining marks on one letter; no language stacks more."""

MAX_VARIATIONS = 10

MAX_FIELDS = 100
"""Fields in the body of a request, known or not."""

UNREADABLE = frozenset({"Cc", "Cs", "Co"})
"""Categories of control characters, lone surrogates and private characters. Not of unassigned ones: each Python has
the table of its own year, and new emoji come every year."""

DIRECTION_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e")


def _readable(value: str) -> str:
    """Refuse control characters, lone surrogates and private characters.

    Overrides of the writing direction are refused too, since they affect the text around a prompt.
    """
    for position, character in enumerate(value):
        if unicodedata.category(character) in UNREADABLE or character in DIRECTION_OVERRIDES:
            raise ValueError(
                "control and private characters and overrides of the writing direction are not allowed, got "
                f"U+{ord(character):04X} at character {position + 1}"
            )
    if confusables.max_stacked_marks(value) > MAX_MARKS:
        raise ValueError(f"at most {MAX_MARKS} combining marks are allowed on one letter")
    return value


def _in_one_line(value: object) -> object:
    """Return a text with each run of white space, such as line breaks, as one space, and none around it."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _visible(value: str) -> str:
    """Refuse a text without any visible character."""
    if not confusables.is_visible(value):
        raise ValueError("needs a visible character, got only invisible ones")
    return value


def _allowed(value: str) -> str:
    """Refuse a text with a banned word."""
    if found := moderation.find_banned(value):
        raise ValueError(f"“{found}” is not allowed in prompts on this site")
    return value


def _whole(value: object) -> object:
    """Accept 24.0 as 24: JSON has only one type of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
InOneLine = BeforeValidator(_in_one_line)
Readable = AfterValidator(_readable)
Prompt = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_PROMPT),
    InOneLine,
    Readable,
    AfterValidator(_visible),
    AfterValidator(_allowed),
]
Text = Annotated[
    str,
    StringConstraints(max_length=MAX_PROMPT),
    InOneLine,
    Readable,
    AfterValidator(_allowed),  # it is shown beside the walk
]
ModelName = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_MODEL), Readable]
Weight = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
WebhookUrl = Annotated[str, StringConstraints(max_length=sender.MAX_URL), AfterValidator(sender.checked_url)]

NULL_MEANS_DEFAULT = frozenset(name for name, setting in SETTINGS.items() if setting.default is None)
"""Fields where null means the default, even with `from_walk`. In other fields null is the same as omitted."""


MODEL_CHOOSES = frozenset({"steps", "guidance", "scheduler", "width", "height"})
"""Fields whose defaults and limits depend on the model."""


def _documented(schema: dict[str, Any]) -> None:
    """Allow null for every field in the schema, and add examples."""
    for name, described in schema["properties"].items():
        if "anyOf" not in described:
            outer = {key: described.pop(key) for key in ("title", "description", "default") if key in described}
            schema["properties"][name] = {"anyOf": [described, {"type": "null"}], **outer}
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


class _Stops(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_documented)

    from_walk: Annotated[UUID, Field(strict=False)] | None = Field(
        None,
        description="Id of a walk to start from: omitted fields have the values of that walk, and frames that are "
        "the same are reused instead of being rendered.",
    )
    prompts: list[Prompt] | None = Field(
        None,
        min_length=2,
        max_length=MAX_STOPS,
        validate_default=True,
        description="The stops of the walk; usually two. Required unless `from_walk` is set.",
    )


_REQUEST_TYPES: dict[Any, Any] = {
    int: Whole,
    str: Text,
    tuple[float, ...]: list[Weight],
    tuple[str, ...]: list[Text],
    tuple[Seed, ...]: list[Seed],
    tuple[LegFrames, ...]: list[Annotated[Whole, Field(ge=1, le=MAX_FRAMES)]],
}
"""The type of a request's field, where it differs from that of `WalkSpec`."""


def _fields() -> dict[str, Any]:
    """Return a field for each setting of a walk."""
    fields: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        type_ = ModelName if name == "model" else _REQUEST_TYPES.get(value_type(name), value_type(name))
        field = Field(setting.default, description=setting.description, **setting.limits)
        fields[name] = (type_ | None if setting.default is None else type_, field)
    return fields


_Settings: Any = create_model("_Settings", __base__=_Stops, **_fields())


class WalkRequest(_Settings):  # which has a field for each setting
    """A request for a new walk."""

    public: bool = Field(True, description="Whether the walk is shown in the gallery.")
    deadline_seconds: Whole | None = Field(
        None, ge=1, le=7 * 24 * 3600, description="The walk fails if it is not finished after this many seconds."
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description="An https URL to which a message is posted when the walk ends (walk.succeeded, walk.failed or "
        "walk.canceled), signed according to Standard Webhooks.",
        examples=["https://example.com/hook"],
    )
    variations: Whole | None = Field(
        None,
        ge=2,
        le=MAX_VARIATIONS,
        description="How many walks to make that differ in their seeds, which are drawn. The answer lists them.",
    )
    pinned: Pins | None = Field(
        None,
        description="The frames of a walk to make again, as its `walk.json` has them: they are rendered at these "
        "positions, in these batches.",
    )

    @model_validator(mode="before")
    @classmethod
    def _limit_fields_and_drop_null(cls, sent: object) -> object:
        if not isinstance(sent, dict):
            return sent
        if len(sent) > MAX_FIELDS:  # one error instead of thousands
            raise ValueError(f"at most {MAX_FIELDS} fields, got {len(sent)}")
        null_means_omitted = WalkRequest.model_fields.keys() - NULL_MEANS_DEFAULT
        return {name: value for name, value in sent.items() if value is not None or name not in null_means_omitted}

    @field_validator("prompts")
    @classmethod
    def _required_without_from_walk(cls, value: list[str] | None, others: ValidationInfo) -> list[str] | None:
        if value is None and others.data.get("from_walk") is None:
            raise ValueError("is required")
        return value

    @field_validator(*FOR_EACH_STOP)
    @classmethod
    def _one_for_each_prompt(cls, value: list[Any] | None, others: ValidationInfo) -> list[Any] | None:
        prompts = others.data.get("prompts")
        if value is not None and prompts is not None and len(value) != len(prompts):
            raise ValueError(f"must have one value per prompt: {len(prompts)}, got {len(value)}")
        return value

    @field_validator("frames")
    @classmethod
    def _every_stop_has_a_frame(cls, value: int, others: ValidationInfo) -> int:
        stops = len(others.data.get("prompts") or ())
        if value < stops:
            raise ValueError(f"must be at least the number of prompts: {stops}, got {value}")
        return value

    @field_validator("pinned")
    @classmethod
    def _pins_suit_the_walk(cls, value: Pins | None, others: ValidationInfo) -> Pins | None:
        sent = others.data
        if value is not None and sent.get("prompts") and "frames" in sent:
            closed = sent.get("loop") == "closed"
            if mistake := value.mistake(sent["frames"], len(sent["prompts"]) - (not closed), closed=closed):
                raise ValueError(mistake)
        return value

    def starting_from(self, walk: Walk) -> "WalkRequest":
        """Return the request with omitted fields taken from a walk.

        Raises:
            pydantic.ValidationError: if the combination is invalid.
        """
        given = self.model_dump(mode="json", exclude_unset=True)
        found = {**walk.spec.model_dump(mode="json"), "public": walk.public}
        found["model"] = walk.model
        if given.get("model", walk.model) != walk.model:  # what suits one model need not suit another
            found = {name: value for name, value in found.items() if name not in MODEL_CHOOSES}
        return WalkRequest.model_validate(replaced(found, given))

    def new_walk(self, catalog: Catalog) -> NewWalk:
        """Return the walk to create, with all choices made; with `from_walk`, call `starting_from` first.

        Raises:
            InvalidFieldError: if its model is not available.
            fastapi.exceptions.RequestValidationError: if the model cannot render it.
        """
        given = {name: getattr(self, name) for name in WalkSpec.model_fields.keys() & self.model_fields_set}
        chosen, mistakes = completed({name: value for name, value in given.items() if value is not None})
        if self.variations is not None:
            sent = [name for name in OF_ONE_WALK if getattr(self, name) is not None]
            mistakes += [(name, "must be left out with variations, whose seeds are drawn") for name in sent]
        _refuse(mistakes)
        model = catalog.choose(chosen.get("model"))
        spec = self._spec(model, chosen)
        _refuse(model.mistakes(spec))
        warnings, pins = model.warnings(spec), self.pinned
        most = settings().batch_size * model.max_size**2 // (spec.width * spec.height)
        if pins is not None and any(batch.size > most for batch in pins.batches):
            pins = pins.with_batches_of(most)
            warnings.append(
                f"This walk was first made in larger batches than this server makes, {most} frames at most: its "
                "pictures may differ from those."
            )
        return NewWalk(
            spec,
            self.public,
            self.deadline_seconds,
            self.webhook_url,
            tuple(warnings),
            pins,
            tuple(spec.model_copy(update={"seed": _drawn_seed()}) for _ in range(1, self.variations or 1)),
        )

    def _spec(self, model: Model, chosen: dict[str, Any]) -> WalkSpec:
        usual = {name: setting.default for name, setting in SETTINGS.items()}
        of_model = {
            "model": model.name,
            "seed": _drawn_seed(),
            "steps": model.steps,
            "guidance": model.guidance,
            "width": model.size,
            "height": model.size,
        }
        return WalkSpec(**{**usual, **of_model, **chosen})


def _drawn_seed() -> int:
    return secrets.randbelow(DRAWN_SEEDS)


def _refuse(mistakes: list[tuple[str, str]]) -> None:
    """Raise the mistakes of a request, if it has any, in the form of those that pydantic finds."""
    if mistakes:
        raise RequestValidationError(
            [
                {"type": "value_error", "loc": ("body", field), "msg": message, "ctx": {"error": message}}
                for field, message in mistakes
            ]
        )


class WalkChange(BaseModel):
    """A change of an existing walk."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"public": False}]})

    public: bool = Field(description="Whether everyone may see the walk, or only its owner.")
