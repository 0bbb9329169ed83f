"""Thumbnails, by which pictures are compared without downloading them."""

from PIL import Image

from worker.media.encoders import Picture

SIDE = 32
"""Pixels."""


def thumbnail(picture: Picture) -> bytes:
    """Return the thumbnail of a picture: 32 × 32 pixels of sRGB, each the mean of the area that it covers."""
    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
