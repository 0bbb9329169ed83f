"""What a frame shows, as a hash."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from momalisa.domain.path import leg
from momalisa.domain.spec import SAMPLING_SETTINGS, WalkSpec


def content_hashes(
    spec: WalkSpec, positions: Sequence[float], made_with: str, batch_size: int | None = None
) -> tuple[str, ...]:
    """Return the content hashes of frames: frames with equal hashes are the same picture, in whichever walks.

    The other frames in a batch change pixels slightly, so they are part of the hash.

    Args:
        spec: the walk.
        positions: of the frames, in the order in which they are rendered.
        made_with: what renders them: the revision of the model, the number format and the device, as text.
        batch_size: how many of them are rendered at once; None means all.
    """
    sampling = [getattr(spec, name) for name in SAMPLING_SETTINGS]
    return _hashes([_content(spec, position) for position in positions], made_with, batch_size, sampling)


def interpolated_hashes(
    neighbours: Mapping[float, Sequence[tuple[float, str]]], made_with: str, batch_size: int | None = None
) -> tuple[str, ...]:
    """Return the content hashes of frames that are interpolated between others.

    What the others show has the settings of the walk in it, so these need not be given.

    Args:
        neighbours: for the position of each, in the order in which they are decoded, those that it lies between:
            their positions and content hashes.
        made_with: what decodes them, as text.
        batch_size: how many of them are decoded at once; None means all.
    """
    return _hashes(list(neighbours.items()), made_with, batch_size, "interpolated")


def _hashes(
    contents: Sequence[object], made_with: str, batch_size: int | None, settings: object
) -> tuple[str, ...]:
    """Return a hash of each content, with its place in its batch and the others there."""
    size = batch_size or len(contents)
    return tuple(
        hashlib.sha256(
            json.dumps([made_with, size, index % size, contents[index - index % size :][:size], settings]).encode()
        ).hexdigest()
        for index in range(len(contents))
    )


def _content(spec: WalkSpec, position: float) -> list[object]:
    """Return what distinguishes a frame from others of the same settings: the prompts around it, and its noise."""
    number, t = leg(position, spec.legs)
    texts = list(zip(spec.stops, spec.negatives, strict=True))
    start, end = texts[number : number + 2]
    noise = spec.noise(position)
    return [
        [end if t else start] if t in {0, 1} else [start, end, spec.interpolation, round(t, 9)],
        [*noise[:2], round(noise.t, 9)],
    ]
