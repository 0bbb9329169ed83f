"""What a walk shall look like: everything that decides its pixels, with nothing left to choose."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from momalisa.domain.path import Easing, Loop, Timing, leg, path_progress

Pacing = Literal["even", "linear"]
"""Equal steps to the eye, or equal steps between the prompts' embeddings."""

Interpolation = Literal["lerp", "slerp"]
"""Between embeddings: on the straight line, or on the arc."""

Scheduler = Literal["ddim", "deis", "dpmpp_2m", "euler", "heun", "pndm", "unipc"]
"""Samplers that draw no noise after the first."""


class WalkSpec(BaseModel):
    """A walk as it was ordered, every default filled in.

    What has a default here came later than the first walks, which were made as the default says.
    """

    model_config = ConfigDict(frozen=True)

    prompts: tuple[str, ...]
    """The stops, at least two."""
    weights: tuple[float, ...] | None = None
    """How long the walk lingers at each stop; None means equally long."""
    frames: int
    """Frames that are rendered, the stops included."""
    pacing: Pacing = "linear"
    easing: Easing = "linear"
    hold: int = 0
    """How many frames longer the animation shows each stop."""
    loop: Loop = "none"
    interpolation: Interpolation = "lerp"
    seed: int
    """Seed of the noise that every frame starts from, or only the first one if there is another to go to."""
    seed_to: int | None = None
    """Seed of the noise that the walk travels to; None means that all frames start from the same."""
    negative_prompt: str
    steps: int
    """Denoising steps of each frame."""
    guidance: float
    """Scale of classifier-free guidance; 1 or less means none."""
    scheduler: Scheduler | None = None
    """None means the model's own."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    fps: int
    """Frames per second of the finished animation."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The prompts in the order in which the walk leads over them; a closed one ends at the first again."""
        return self.prompts + self.prompts[:1] if self.loop == "closed" else self.prompts

    @property
    def timing(self) -> Timing:
        """How the time of the walk is spread over its way."""
        weights = self.weights or (1.0,) * len(self.prompts)
        closed = self.loop == "closed"
        return Timing(weights + weights[:1] if closed else weights, easing=self.easing, closed=closed)

    @property
    def frames_shown(self) -> int:
        """Frames of the finished animation, which shows some of the rendered ones several times."""
        there = self.frames + self.hold * len(self.prompts)
        back = self.frames - 2 + self.hold * (len(self.prompts) - 2)
        return there + back if self.loop == "pingpong" else there

    def refines(self, other: "WalkSpec") -> bool:
        """Tell whether this walk is the other one with as many frames or more, so that all of those fit in."""
        shown: dict[str, object] = {"frames": self.frames, "hold": self.hold, "fps": self.fps}
        if not self.timing.closed and not other.timing.closed:
            shown["loop"] = self.loop
        return other.model_copy(update=shown) == self and self.frames >= other.frames


def frame_key(spec: WalkSpec, position: float, model: str) -> str:
    """Return what a frame shows, as a hash: frames of any walks that have the same key are the same picture.

    Args:
        spec: the walk.
        position: of the frame.
        model: what tells this model and its weights from any other.
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
    return hashlib.sha256(json.dumps([model, between, noise, sampling]).encode()).hexdigest()


def slug(prompts: Sequence[str]) -> str:
    """Return a file name, without an extension, that tells which walk this is: "a-giraffe-to-a-battleship".

    It is plain ASCII of at most 80 characters, so that every file system and HTTP header takes it.
    """
    words = [re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-") for prompt in prompts]
    return "-to-".join(filter(None, words))[:80].strip("-") or "walk"
