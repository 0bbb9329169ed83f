"""What a picture looks like from afar, in a few kilobytes: to compare pictures without fetching them."""

from PIL import Image

from worker.media.encoders import Picture

SIDE = 32
"""Pixels, whatever the size of the picture."""


def thumbnail(picture: Picture) -> bytes:
    """Return the signature of a picture: 32 × 32 pixels of sRGB, the mean of what each of them covers."""
    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
