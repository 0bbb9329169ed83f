"""Thumbnails of pictures that no model renders."""

LENGTH = 256
"""Size of a thumbnail, in bytes."""


def bar(done: float) -> bytes:
    """Return the thumbnail of a growing bar, at a progress in [0, 1]."""
    level = round(done * LENGTH * 255)
    return bytes([255] * (level // 255) + [level % 255] * (level < LENGTH * 255)).ljust(LENGTH, b"\0")
