import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from momalisa import local
from momalisa.local import System
from momalisa.settings import ROOT


def momalisa(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "momalisa", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_walk_is_saved_as_a_gif_and_an_mp4(system: System, tmp_path: Path) -> None:
    out = tmp_path / "cat.gif"
    run = momalisa("walk", "a cat", "a castle", "--frames=6", "--seed=3", f"--out={out}", f"--url={system.url}")
    assert run.returncode == 0, run.stderr
    assert "6/6" in run.stdout
    assert str(out) in run.stdout.replace("\n", "")
    with Image.open(out) as gif:
        assert (gif.format, getattr(gif, "n_frames", 1), gif.size) == ("GIF", 6, (128, 128))
    with av.open(str(out.with_suffix(".mp4"))) as video:
        assert len(list(video.decode(video=0))) == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a cat"], "prompts: at least 2 are needed, got 1"),
        (["a cat", "a castle", "--frames=241"], "frames: at most 240, got 241"),
        (["a cat", "x" * 400], "prompts[1]: at most 300 characters, got 400"),
        (["a cat", "a castle", "--out=nowhere/cat.gif"], "There is no folder nowhere to write cat.gif to."),
    ],
)
def test_a_refusal_is_one_sentence(system: System, arguments: list[str], sentence: str) -> None:
    run = momalisa("walk", f"--url={system.url}", *arguments)
    assert run.returncode == 1
    assert sentence in run.stderr.replace("\n", " ")
    assert "Traceback" not in run.stderr


def test_a_server_out_of_reach_is_one_sentence() -> None:
    run = momalisa("walk", "a", "b", f"--url=http://127.0.0.1:{local.free_port()}")
    assert run.returncode == 1
    assert "cannot be reached" in run.stderr


def test_the_version_is_told() -> None:
    assert momalisa("--version").stdout.startswith("momalisa ")
