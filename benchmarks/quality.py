"""The tables in `docs/`, each between two markers, written by the benchmark that measured it."""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from momalisa.settings import ROOT

PAGE = ROOT / "docs" / "quality.md"


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's command line, with `--short`."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    made.add_argument("--short", action="store_true", help="try it in small, and write no document")
    return made


def write(name: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Put lines of Markdown into a page between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: if the page has no such markers.
    """
    text = "\n".join(lines)
    mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    written, count = mark.subn(lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text())
    if count != 1:
        raise ValueError(f"{page} has {count} places for {name}, not one")
    page.write_text(written)
