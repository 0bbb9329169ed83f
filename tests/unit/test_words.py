"""Documentation and code are in plain English: archaic and vague words are rare."""

import re
import subprocess
from collections import Counter

from momalisa.settings import ROOT

WORDS = re.compile(r"\b(whoever|anew|nobody|somebody|anybody|told|shall|thereby)\b", re.IGNORECASE)

TEXTS = (
    "*.md",
    "*.py",
    "*.yml",
    "*.yaml",
    "*.toml",
    "*.template",
    "*.env",
    "*.example",
    "*.js",
    "*.html",
    "*.css",
    "Makefile",
)

MAX_LEFT = 5
"""Maximum number of occurrences in all."""


def test_the_listed_words_are_rare() -> None:
    command = [
        "git",
        "ls-files",
        "--",
        *TEXTS,
        ":!frontend/static/vendor",
        f":!tests/unit/{__name__.rpartition('.')[2]}.py",
    ]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(files) > 200
    found = Counter({name: len(WORDS.findall((ROOT / name).read_text())) for name in files})
    assert found.total() <= MAX_LEFT, {name: count for name, count in found.items() if count}
