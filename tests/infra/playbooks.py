"""Playbooks, run against Google's APIs in memory."""

import re
import subprocess
from pathlib import Path
from typing import Any

from momalisa.settings import ROOT
from tests.infra.google import Google, environment

FOLDER = ROOT / "infra" / "ansible"
BIN = ROOT / ".venv" / "bin"
PROJECT = "my-project"


class Played:
    """What a run of ansible-playbook said."""

    def __init__(self, run: subprocess.CompletedProcess[str]) -> None:
        self.code = run.returncode
        self.output = run.stdout + run.stderr
        self.changed = sum(int(number) for number in re.findall(r"\bchanged=(\d+)", run.stdout))


def run(google: Google, home: Path, name: str, *arguments: str, fails: bool = False, **variables: Any) -> Played:
    """Run a playbook against the APIs in memory."""
    usual = {"version": "v1", "ssh_key": str(home / "key")}
    extra = [f"--extra-vars={key}={value}" for key, value in {**usual, **variables}.items()]
    played = Played(
        subprocess.run(
            [BIN / "ansible-playbook", name, *extra, *arguments],
            cwd=FOLDER,
            env=environment(google, GOOGLE_CLOUD_PROJECT=PROJECT, ANSIBLE_NOCOLOR="1", HOME=str(home)),
            capture_output=True,
            text=True,
            check=False,
        )
    )
    assert (played.code != 0) == fails, played.output
    return played
