"""What pins the frames of a walk: their batches, and what rendered them.

The pixels of a frame depend on more than the settings of its walk: on where even pacing put it, on the model's
weights, the number format and the device, and in their last bits on the other frames in its batch. With all of that
a walk can be made again, byte for byte on the same hardware, whatever other walks it was made from.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from momalisa.domain.path import leg
from momalisa.domain.spec import MAX_FRAMES

MAX_BATCH = 64

MAX_MADE_WITH = 1000
"""Characters of each text of `MadeWith`."""

DIGITS = 9
"""Digits after the point in which positions differ."""


class Batch(BaseModel):
    """The frames that are rendered at once."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    size: int = Field(ge=1, le=MAX_BATCH, description="Number of pictures in the batch; missing ones are padded.")
    positions: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        min_length=1, max_length=MAX_BATCH, description="Of its frames, in ascending order."
    )
    interpolated: bool = Field(
        False, description="Whether its frames are interpolated between those of earlier batches that are not."
    )

    @property
    def mistake(self) -> str | None:
        """What of it is wrong; None if nothing is."""
        if len(self.positions) > self.size:
            return f"has {len(self.positions)} positions, and its size is {self.size}"
        return None if self.positions == sorted(self.positions) else "has positions that are not in ascending order"


class MadeWith(BaseModel):
    """What rendered frames, besides their settings."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    revision: str = Field(max_length=MAX_MADE_WITH, description="Hash of all weights and settings of the model.")
    dtype: str = Field(max_length=MAX_MADE_WITH, description="Number format of the denoiser.")
    device: str = Field(max_length=MAX_MADE_WITH, description="The kind of processor.")

    def differences(self, now: "MadeWith") -> list[str]:
        """Return how frames made now may differ from those that were made with this, in sentences for visitors.

        They quote nothing of this, since it may be anything that a visitor sent.
        """
        found = []
        if self.dtype != now.dtype:  # which changes the revision, too
            found.append(f"another number format than {now.dtype}")
        elif self.revision != now.revision:
            found.append("another revision of its model")
        if self.device != now.device:
            found.append(f"another device than {now.device}")
        first = "This walk was first made with {}: its pictures may differ from those."
        return [first.format(each) for each in found]


class Pins(BaseModel):
    """The batches of a walk, in the order in which they were planned, and what rendered them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    batches: list[Batch] = Field(min_length=1, max_length=MAX_FRAMES)
    made_with: MadeWith | None = Field(None, description="What rendered them; null if that is unknown.")

    @property
    def positions(self) -> list[float]:
        """The positions of all frames."""
        return [position for batch in self.batches for position in batch.positions]

    def with_batches_of(self, most: int) -> "Pins":
        """Return the pins with batches of at most `most` frames: larger ones are divided."""
        batches = [
            part
            for batch in self.batches
            for part in _divided(batch.positions, min(batch.size, most), interpolated=batch.interpolated)
        ]
        return Pins(batches=batches, made_with=self.made_with)

    def denoised(self) -> "Pins":
        """Return the pins of the same frames with none interpolated."""
        batches = [Batch(size=batch.size, positions=batch.positions) for batch in self.batches]
        return Pins(batches=batches, made_with=self.made_with)

    def mistake(self, frames: int, legs: int, *, closed: bool) -> str | None:
        """Return why a walk with so many frames and legs cannot be pinned like this, or None if it can."""
        for index, batch in enumerate(self.batches):
            if mistake := batch.mistake:
                return f"batch {index} {mistake}"
        if self.batches[0].interpolated:
            return "batch 0 cannot be interpolated, since there are no frames before it"
        there = self.positions
        if len(there) != frames:
            return f"has {len(there)} positions for {frames} frames; leave it out to have other frames"
        if len({round(position, DIGITS) for position in there}) < frames:
            return "has a position twice"
        stops = {leg(position, legs) for position in there if leg(position, legs)[1] in {0, 1}}
        wanted = {(number, 0.0) for number in range(legs)} | (set() if closed else {(legs - 1, 1.0)})
        if stops != wanted:
            return (
                "must have a position at each stop, and a closed walk none at 1; leave it out to have other stops"
            )
        return None


class RenderedFrame(NamedTuple):
    """A frame, and how its chunk was rendered."""

    chunk: int
    position: float
    batch_size: int
    interpolated: bool = False
    """Whether its chunk is one of interpolated frames."""
    made_with: MadeWith | None = None


def pins(frames: Sequence[RenderedFrame]) -> Pins:
    """Return the pins of all frames of a walk; if workers of several kinds rendered it, those are named.

    As many of them as MAX_MADE_WITH allows.
    """
    kinds = {frame.made_with for frame in frames} - {None}
    names = MadeWith.model_fields
    joined = {name: ", ".join(sorted({getattr(kind, name) for kind in kinds}))[:MAX_MADE_WITH] for name in names}
    return Pins(batches=in_batches(frames), made_with=MadeWith(**joined) if kinds else None)


def in_batches(frames: Iterable[RenderedFrame]) -> list[Batch]:
    """Return frames as the batches in which they were rendered: a chunk is one, or several if memory ran out."""
    batches = []
    for (_, size, interpolated), chunk in groupby(
        sorted(frames), key=lambda frame: (frame.chunk, frame.batch_size, frame.interpolated)
    ):
        batches += _divided([frame.position for frame in chunk], size, interpolated=interpolated)
    return batches


def _divided(positions: Sequence[float], size: int, *, interpolated: bool) -> list[Batch]:
    return [
        Batch(size=size, positions=list(positions[start : start + size]), interpolated=interpolated)
        for start in range(0, len(positions), size)
    ]
