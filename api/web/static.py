"""The static files of the website: styles, scripts, fonts, images."""

import gzip
import os
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.web.templates import FRONTEND

IMMUTABLE = ("fonts", "vendor")
"""Folders whose files are renamed when they change."""

ALREADY_COMPRESSED = (".woff2", ".webp", ".png", ".jpg", ".mp4")


def files() -> StaticFiles:
    """Return the ASGI app that serves them, with compression and browser caching."""
    return _Files(directory=FRONTEND / "static", check_dir=False)


class _Files(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file or 304, with Cache-Control."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = Path(full_path)
        if isinstance(response, FileResponse) and path.suffix not in ALREADY_COMPRESSED:
            response.headers["Vary"] = "Accept-Encoding"
            if "gzip" in Headers(scope=scope).get("accept-encoding", "") and scope["method"] == "GET":
                response = _compressed_response(path, stat_result.st_mtime_ns, response)
        immutable = path.parent.name in IMMUTABLE
        response.headers["Cache-Control"] = "public, max-age=31536000" if immutable else "no-cache"
        return response


def _compressed_response(path: Path, changed: int, plain: FileResponse) -> Response:
    """Return the response with the file compressed."""
    kept = {name: plain.headers[name] for name in ("etag", "last-modified", "vary")}
    body = _compressed(path, changed)
    return Response(body, media_type=plain.media_type, headers={**kept, "Content-Encoding": "gzip"})


@lru_cache(maxsize=256)
def _compressed(path: Path, changed: int) -> bytes:  # noqa: ARG001 - a part of the cache key
    """Return a file compressed; cached, because a first visit requests about twenty files."""
    return gzip.compress(path.read_bytes(), mtime=0)
