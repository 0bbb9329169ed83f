"""The settings of a walk, read back from the files that it left.

Each file holds them as a JSON object (`worker/media/metadata.py`): a GIF in its comment, an MP4 in its tags, a WebP
as XMP, a PNG in a text chunk, a ZIP as `walk.json`. `frontend/static/file-settings.js` reads the same in a browser.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

from momalisa.domain.spec import SETTINGS
from momalisa.errors import MomalisaError

EXTENSION, COMMENT = 0x21, 0xFE
"""The bytes that begin an extension of a GIF, and name a comment among them."""

DAMAGED = (ValueError, LookupError, StopIteration, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What a damaged file raises; the last ones come from `zipfile`."""

FIELDS = {"prompts", "pinned", *SETTINGS}
"""What a request for a walk may take from a file."""


class NoSettingsError(MomalisaError):
    """A file has no settings of a walk."""


def settings_of(path: Path) -> dict[str, Any]:
    """Return the settings that a file of a walk holds, as fields of a request.

    Raises:
        NoSettingsError: if the file cannot be read, or holds none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NoSettingsError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        found = json.loads(_text(data))
    except DAMAGED:
        found = None
    if not isinstance(found, dict) or not _of_whole_walk(found):
        raise NoSettingsError(
            f"{path} has no settings of a whole walk. Name the GIF, MP4, WebP or ZIP of one, or its walk.json."
        )
    return {name: value for name, value in found.items() if name in FIELDS}


def _of_whole_walk(found: dict[str, Any]) -> bool:
    """Return whether these are the settings of a walk, not of a single frame, which has one prompt or two."""
    prompts = found.get("prompts")
    if not isinstance(prompts, list) or len(prompts) < 2:  # noqa: PLR2004
        return False
    return all(isinstance(each, str) for each in prompts) and "frames" in found


def _text(data: bytes) -> bytes | str:
    """Return the JSON text in a file, by the kind of file; anything else is JSON itself."""
    if data.startswith(b"GIF8"):
        return _gif(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return next(body[8:] for kind, body in _png(data) if kind == b"tEXt" and body.startswith(b"Comment\0"))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        xmp = next(body for kind, body in _riff(data) if kind == b"XMP ").decode()
        inside = xmp.partition("<dc:description>")[2].partition("</rdf:li>")[0]
        return unescape(inside.rpartition('"x-default">')[2])
    if data[4:8] == b"ftyp":
        return _mp4(data)
    if data.startswith(b"PK"):
        return zipfile.ZipFile(BytesIO(data)).read("walk.json")
    return data


def _gif(data: bytes) -> bytes:
    """Return the comment of a GIF (GIF89a, section 24)."""
    place = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[place] == EXTENSION:  # the first picture begins otherwise
        kind, place, found = data[place + 1], place + 2, b""
        while size := data[place]:
            found += data[place + 1 : place + 1 + size]
            place += 1 + size
        place += 1
        if kind == COMMENT:
            return found
    raise LookupError


def _png(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG."""
    place = 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += 12 + size


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a WebP (RFC 9649)."""
    place = 12
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place : place + 4], data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _mp4(data: bytes) -> bytes:
    """Return the comment of an MP4: the box moov.udta.meta.ilst.©cmt.data (QuickTime File Format)."""
    for name, skipped in ((b"moov", 0), (b"udta", 0), (b"meta", 4), (b"ilst", 0), (b"\xa9cmt", 0), (b"data", 8)):
        data = next(body for kind, body in _boxes(data) if kind == name)[skipped:]
    return data


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the boxes of an MP4."""
    place = 0
    while place < len(data):
        size, start = int.from_bytes(data[place : place + 4], "big"), 8
        if size == 1:  # the size follows in 64 bits
            size, start = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if size < start:  # 0 means up to the end
            size = len(data) - place
        yield data[place + 4 : place + 8], data[place + start : place + size]
        place += size
