"""The pure maths of a walk: where its frames lie, and in which order they are rendered. No I/O."""

from itertools import pairwise


def positions(frames: int, stops: int) -> list[float]:
    """Return the positions of `frames` frames on a walk over `stops` stops, in ascending order.

    A position lies in [0, 1]; stop k lies at k / (stops - 1). Every stop has a frame of its own, exactly, and
    the others are shared out between the legs as evenly as whole frames allow, in equal steps on each leg.

    Raises:
        ValueError: if there are fewer than two stops, or fewer frames than stops.
    """
    if stops < 2:  # noqa: PLR2004
        raise ValueError(f"a walk has at least 2 stops, not {stops}")
    if frames < stops:
        raise ValueError(f"a walk over {stops} stops has at least {stops} frames, not {frames}")
    legs = stops - 1
    joints = [round(leg * (frames - 1) / legs) for leg in range(legs + 1)]
    found = [0.0]
    for leg, (start, end) in enumerate(pairwise(joints)):
        found += [(leg + step / (end - start)) / legs for step in range(1, end - start + 1)]
    return found


def chunks(frames: int, size: int) -> list[list[int]]:
    """Share out the frames 0 … frames - 1 of a walk into chunks of at most `size`, coarse to fine.

    The first chunk spans the walk from end to end, so that a preview of all of it plays as soon as one batch is
    done. Each later chunk again takes frames from everywhere, and they come in bit-reversed order (van der
    Corput), so that the gaps that are left are filled evenly. Every frame is in exactly one chunk.

    Raises:
        ValueError: if `frames` or `size` is less than one.
    """
    if frames < 1 or size < 1:
        raise ValueError(f"frames and size are at least 1, not {frames} and {size}")
    if frames <= size:
        return [list(range(frames))]
    first = spread(frames, size)
    rest = sorted(set(range(frames)) - set(first))
    count = -(-len(rest) // size)
    return [first, *(rest[offset::count] for offset in _bit_reversed(count))]


def spread(total: int, count: int) -> list[int]:
    """Return `count` of the indices 0 … total - 1 as evenly as whole numbers allow, both ends among them."""
    if count == 1:
        return [0]
    return [round(step * (total - 1) / (count - 1)) for step in range(count)]


def leg(position: float, stops: int) -> tuple[int, float]:
    """Return on which leg of a walk a position lies, and how far along it in [0, 1].

    Leg k leads from stop k to stop k + 1. A stop belongs to the leg that it starts, the last one to the last leg.
    """
    legs = stops - 1
    number = min(int(position * legs), legs - 1)
    along = position * legs - number
    # A joint such as 2/3 · 3 must be the stop itself, not a rounding error before it.
    nearest = round(along)
    return number, float(nearest) if abs(along - nearest) < 1e-9 else along  # noqa: PLR2004


def _bit_reversed(count: int) -> list[int]:
    bits = max(count - 1, 1).bit_length()
    reversed_ = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in reversed_ if number < count]
