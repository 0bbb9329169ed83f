"""What a walk shall look like: everything that decides its pixels, with nothing left to choose."""

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class WalkSpec(BaseModel):
    """A walk as it was ordered, every default filled in."""

    model_config = ConfigDict(frozen=True)

    prompts: tuple[str, ...]
    """The stops, at least two."""
    frames: int
    """Frames in all, the stops included."""
    seed: int
    """Seed of the fixed noise that every frame starts from."""
    negative_prompt: str
    steps: int
    """Denoising steps of each frame."""
    guidance: float
    """Scale of classifier-free guidance; 1 or less means none."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    fps: int
    """Frames per second of the finished animation."""


def slug(prompts: Sequence[str]) -> str:
    """Return a file name, without an extension, that tells which walk this is: "a-giraffe-to-a-battleship".

    It is plain ASCII of at most 80 characters, so that every file system and HTTP header takes it.
    """
    words = [re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-") for prompt in prompts]
    return "-to-".join(filter(None, words))[:80].strip("-") or "walk"
