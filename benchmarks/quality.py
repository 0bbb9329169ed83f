"""Tables in `docs/`, each between two marks and written by the command that measured it."""

import re
from collections.abc import Iterable
from pathlib import Path

from momalisa.settings import ROOT

PAGE = ROOT / "docs" / "quality.md"


def write(name: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Put lines of Markdown into a page between `<!-- name -->` and `<!-- /name -->`, and print them.

    Raises:
        ValueError: if the page has no such marks.
    """
    text = "\n".join(lines)
    print(text)
    mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    written, count = mark.subn(lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text())
    if count != 1:
        raise ValueError(f"{page} has {count} places for {name}, not one")
    page.write_text(written)
