"""The request that `momalisa walk` sends: what it starts from, changed by its arguments and options."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from momalisa.cli import files
from momalisa.cli.terminal import fail
from momalisa.domain.spec import replaced


def body(
    prompts: Sequence[str],
    options: Mapping[str, Any],
    *,
    from_walk: str | None = None,
    like: Path | None = None,
    settings_file: Path | None = None,
) -> dict[str, Any]:
    """Return the request for a walk.

    Args:
        prompts: the stops, if any are named.
        options: by the names of the API's fields, None or empty if omitted.
        from_walk: id of a walk to start from.
        like: a file of a walk to start from.
        settings_file: JSON with fields of the API to start from.
    """
    starts = [each for each in (from_walk, like, settings_file) if each is not None]
    if len(starts) > 1:
        fail("--from-walk, --like and --settings exclude each other.")
    if not prompts and not starts:
        fail("Name two or more stops, or something to start from: --from-walk, --like or --settings.")
    given = {name: value for name, value in options.items() if value not in (None, [])}
    if prompts:
        given["prompts"] = [*prompts]
    if from_walk is not None:
        return {"from_walk": from_walk, **given}
    start = files.settings_of(like) if like else _read(settings_file) if settings_file else {}
    return replaced(start, given)


def _read(file: Path) -> dict[str, Any]:
    """Return the fields of a request in a JSON file."""
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.")
    except ValueError as error:
        fail(f"{file} is not JSON: {error}.")
    if not isinstance(found, dict) or not isinstance(found.get("prompts", []), list):
        fail(f"{file} must be a JSON object with fields of the API, such as a list of prompts.")
    return found
