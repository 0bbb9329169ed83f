"""The first examples of `docs/api.md` work when they are copied."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT

GUIDE = (ROOT / "docs" / "api.md").read_text()


def copied(language: str, system: LocalStack) -> str:
    """Return the first example in a language, for the system under test."""
    block = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert block
    return block[1].replace("http://127.0.0.1:8000", system.url)


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_first_lines_of_the_guide_save_a_gif(system: LocalStack, tmp_path: Path, language: str) -> None:
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    command = {"sh": ["sh", "-euc"], "python": [sys.executable, "-c"]}[language]
    subprocess.run([*command, copied(language, system)], cwd=tmp_path, check=True, timeout=300)
    with Image.open(tmp_path / "walk.gif") as gif:
        assert (gif.format, getattr(gif, "n_frames", 1)) == ("GIF", 16)
