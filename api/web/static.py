"""The files of the website: style, scripts, fonts, small pictures."""

import gzip
import os
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.web.templates import FRONTEND

NEVER_CHANGE = ("fonts", "vendor")
"""Folders whose files get another name with other content."""

COMPRESSED_ALREADY = (".woff2", ".webp", ".png")


def files() -> StaticFiles:
    """Return the application that serves them: compressed, and from the cache of the browser where it can be."""
    return _Files(directory=FRONTEND / "static", check_dir=False)


class _Files(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or that it has not changed, with word of how long browsers may keep it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = Path(full_path)
        if isinstance(response, FileResponse) and path.suffix not in COMPRESSED_ALREADY:
            response.headers["Vary"] = "Accept-Encoding"
            if "gzip" in Headers(scope=scope).get("accept-encoding", "") and scope["method"] == "GET":
                response = _small(path, stat_result.st_mtime_ns, response)
        kept = "public, max-age=31536000" if path.parent.name in NEVER_CHANGE else "no-cache"
        response.headers["Cache-Control"] = kept
        return response


def _small(path: Path, changed: int, plain: FileResponse) -> Response:
    """Return the answer with a file compressed."""
    kept = {name: plain.headers[name] for name in ("etag", "last-modified", "vary")}
    body = _compressed(path, changed)
    return Response(body, media_type=plain.media_type, headers={**kept, "Content-Encoding": "gzip"})


@lru_cache(maxsize=256)
def _compressed(path: Path, changed: int) -> bytes:  # noqa: ARG001 - a file that has changed is another one
    """Return a file compressed. Remembered: a first visit asks for twenty, and waits for the last of them."""
    return gzip.compress(path.read_bytes(), mtime=0)
