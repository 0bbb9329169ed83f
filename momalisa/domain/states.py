"""Statuses and kinds of database rows: enums whose values are stored as text."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from statistics import fmean


class WalkStatus(StrEnum):
    """The status of a walk."""

    QUEUED = "queued"  # no chunk was claimed yet
    RUNNING = "running"  # frames are being rendered
    ASSEMBLING = "assembling"  # all frames are recorded; the artifacts are being made
    SUCCEEDED = "succeeded"  # the artifacts are recorded
    FAILED = "failed"  # `error_code` and `error_message` say why
    CANCELED = "canceled"  # by its owner or an operator
    EXPIRED = "expired"  # past retention; its files are removed

    @property
    def done(self) -> bool:
        """Whether the walk has ended; an ended walk may still expire."""
        return self not in ACTIVE


ACTIVE = (WalkStatus.QUEUED, WalkStatus.RUNNING, WalkStatus.ASSEMBLING)
ENDED = (WalkStatus.SUCCEEDED, WalkStatus.FAILED, WalkStatus.CANCELED)


class ChunkKind(StrEnum):
    """The kind of work that a chunk is; also the name of the broker queue of its wake-up messages."""

    RENDER = "render"  # render its frames as one batch
    ASSEMBLE = "assemble"  # make the artifacts from all frames of the walk; has no frames of its own


class ChunkStatus(StrEnum):
    """The status of a chunk."""

    WAITING = "waiting"  # for missing frames of earlier passes, between which its own lie
    QUEUED = "queued"  # can be claimed once `scheduled_at` is past
    LEASED = "leased"  # claimed by the worker that holds `lease_token`
    DONE = "done"  # its result is recorded
    FAILED = "failed"  # out of attempts; its walk failed, too
    DROPPED = "dropped"  # its walk ended first


UNFINISHED = (ChunkStatus.WAITING, ChunkStatus.QUEUED, ChunkStatus.LEASED)


class Made(StrEnum):
    """How a frame was made."""

    DENOISED = "denoised"  # by the model
    INTERPOLATED = "interpolated"  # decoded from latents between those of denoised frames (`domain.dense`)
    COPIED = "copied"  # from another walk, which has the same frame


def made_counts(frames: Iterable[tuple[Made | None, float | None]]) -> dict[str, float | None]:
    """Return how many frames were made in which way, and the mean expected error of those that are interpolated.

    Args:
        frames: how each was made, and its expected error in levels of 255; each is None if there is none.
    """
    made = [(kind, error) for kind, error in frames if kind is not None]
    counts = Counter(kind for kind, _ in made)
    errors = [error for _, error in made if error is not None]
    return {**{kind.value: counts[kind] for kind in Made}, "error": round(fmean(errors), 3) if errors else None}


class ArtifactKind(StrEnum):
    """The files of a finished walk."""

    GIF = "gif"
    MP4 = "mp4"
    WEBP = "webp"  # animated, in full colour
    POSTER = "poster"  # one frame, for lists
    CARD = "card"  # first, middle and last frame with the prompts, for links
    LARGE = "large"  # an MP4 of enlarged frames, if asked for
    LARGE_STILL = "large_still"  # one enlarged frame
    SHEET = "sheet"  # contact sheet: all frames on one page, with their positions
    ZIP = "zip"  # the frames, and a walk.json that makes the same walk again


ENLARGED = (ArtifactKind.LARGE, ArtifactKind.LARGE_STILL)
"""Files of enlarged frames."""


class Flag(StrEnum):
    """Why a rendered frame is not shown; its nearest neighbour is shown instead."""

    UNSAFE = "unsafe"  # flagged by the model's safety checker
    BLACK = "black"  # all black, or not a number (half precision may overflow)


class WebhookEvent(StrEnum):
    """The event that a webhook reports, as its receiver reads it."""

    SUCCEEDED = "walk.succeeded"
    FAILED = "walk.failed"
    CANCELED = "walk.canceled"


class DeliveryStatus(StrEnum):
    """The status of a webhook delivery."""

    PENDING = "pending"  # to be sent once `scheduled_at` is past
    DELIVERED = "delivered"  # accepted by the receiver
    GIVEN_UP = "given_up"  # refused by the receiver, or not accepted within a day
