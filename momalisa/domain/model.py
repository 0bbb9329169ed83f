"""What a model can do, and what it is asked for where a walk leaves the choice to it."""

from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from momalisa.domain import prompts
from momalisa.domain.prompts import quoted
from momalisa.domain.spec import Scheduler, WalkSpec

SMALLEST, LARGEST = 64, 2048
"""Width and height of any frame, in pixels."""

MOST_NAMED = 10
"""Instructions of other programs in the warnings of a walk."""

MOST_STEPS = 100
"""Denoising steps of any frame."""


class Model(BaseModel):
    """The description of a model: its defaults and limits. Workers report it; the API offers only what it says."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Its name, for `model` of a walk.")
    about: str = Field("", description="What it was trained for, in the words of its card; empty if that has none.")
    subjects: tuple[str, ...] = Field(
        (),
        description="All that it has learned to paint, by the names in its captions; empty if that is not known.",
    )
    pipeline: str = Field(description="Its class in diffusers.")
    size: int = Field(ge=SMALLEST, le=LARGEST, description="Width and height of a frame by default, in pixels.")
    max_size: int = Field(ge=SMALLEST, le=LARGEST, description="Maximum width and height.")
    coherent_size: int | None = Field(
        None,
        ge=SMALLEST,
        le=LARGEST,
        description="Width and height up to which a picture shows its subject once; larger ones tend to repeat it. "
        "Null: not known.",
    )
    multiple: int = Field(ge=1, description="Width and height must be a multiple of this, in pixels.")
    steps: int = Field(ge=1, le=100, description="Denoising steps by default.")
    fewest_steps: int = Field(1, ge=1, description="The fewest denoising steps that it renders with.")
    most_steps: int = Field(MOST_STEPS, ge=1, description="The most denoising steps that it renders with.")
    guidance: float = Field(ge=0, le=20, description="Guidance by default.")
    guided: bool = Field(True, description="Whether guidance has an effect.")
    negative_above: float | None = Field(
        1.0, description="A negative prompt has an effect with more guidance than this; null: it never has."
    )
    sampler: str = Field("", description="The class of its own sampler in diffusers; empty if not known.")
    schedulers: tuple[Scheduler, ...] = Field(
        (), description="What `scheduler` may name; if there are none, the model renders with its own sampler only."
    )
    tokens: int | None = Field(
        None, description="How many tokens of a prompt it reads at once, with those that begin and end it."
    )
    windows: int = Field(1, ge=1, description="How many windows of that many tokens a prompt may fill.")
    emphasis: bool = Field(
        False, description="Whether it reads weights in prompts, such as `(word:1.3)`, `(word)` and `[word]`."
    )
    dense: bool = Field(
        False,
        description="Whether frames may be interpolated between others (see `exact` of a walk); false until a "
        "worker has loaded the model.",
    )

    def mistakes(self, spec: WalkSpec) -> list[tuple[str, str]]:
        """Return what of a walk this model cannot do: the name of each field, and what it must be."""
        found = []
        for name in ("width", "height"):
            pixels = getattr(spec, name)
            if pixels > self.max_size:
                found.append((name, f"{self.name} renders at most {self.max_size} pixels, got {pixels}"))
            elif pixels % self.multiple:
                found.append((name, f"must be a multiple of {self.multiple} for {self.name}, got {pixels}"))
        if not self.fewest_steps <= spec.steps <= self.most_steps:
            bounds = f"{self.fewest_steps} to {self.most_steps}"
            found.append(("steps", f"must be {bounds} for {self.name}, got {spec.steps}"))
        if spec.scheduler is not None and spec.scheduler not in self.schedulers:
            known = f"one of {', '.join(self.schedulers)}" if self.schedulers else "left out"
            found.append(("scheduler", f"must be {known} for {self.name}, got {spec.scheduler!r}"))
        return found

    def warnings(self, spec: WalkSpec) -> list[str]:
        """Return what of a walk has no effect with this model, in sentences for visitors."""
        found = []
        negative = next(filter(None, spec.negatives), "")
        if negative and self.negative_above is None:
            found.append(f"{self.name} does not read negative prompts: {quoted(negative)} has no effect.")
        elif negative and self.negative_above is not None and spec.guidance <= self.negative_above:
            found.append(
                f"With guidance {spec.guidance:g} a negative prompt has no effect: it needs more than "
                f"{self.negative_above:g}."
            )
        if not self.guided and spec.guidance != self.guidance:
            found.append(f"{self.name} takes no guidance: {spec.guidance:g} has no effect.")
        return [*found, *self._literal(spec), *_still(spec)]

    def _literal(self, spec: WalkSpec) -> list[str]:
        """Return what in the prompts looks like instructions, but is read as words."""
        given = dict.fromkeys([*spec.prompts, *spec.negatives])
        weighted = [] if self.emphasis else filter(prompts.has_weights, given)
        others = list(dict.fromkeys(other for prompt in given for other in prompts.other_syntax(prompt)))
        return [
            *(
                f"{self.name} reads no weights: it takes the brackets in {quoted(each)} literally."
                for each in weighted
            ),
            *(f"{quoted(each)} is read as words, not as an instruction." for each in others[:MOST_NAMED]),
        ]


def _still(spec: WalkSpec) -> list[str]:
    """Return for which legs both stops are the same."""
    if spec.seed_to not in {None, spec.seed}:
        return []
    seeds = spec.seeds or (spec.seed,) * len(spec.prompts)
    stops = zip(spec.stops, spec.negatives, seeds + seeds[:1], strict=False)  # which is one more, for a closed walk
    same = dict.fromkeys(prompt for (prompt, *rest), end in pairwise(stops) if (prompt, *rest) == end)
    return [f"Nothing changes from {quoted(each)} to {quoted(each)}." for each in same]
