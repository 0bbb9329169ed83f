"""The commands of the operators' guide, as tests run them."""

import re

from momalisa.settings import ROOT


def commands(heading: str) -> str:
    """Return the shell commands that stand under a heading of docs/operations.md."""
    section = (ROOT / "docs" / "operations.md").read_text().partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    found = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return "".join(found)
