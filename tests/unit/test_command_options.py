"""The options of `momalisa walk`, and the request that they make."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.schemas.requests import WalkRequest
from momalisa.cli import main, request
from momalisa.cli.options import PANELS
from momalisa.client import Client
from momalisa.domain.spec import SETTINGS
from momalisa.settings import ROOT

PINNED = {"batches": [{"size": 2, "positions": [0, 1]}]}
SAVED = {"prompts": ["a cat", "a dog"], "frames": 2, "seed": 7, "seeds": [7, 8], "pinned": PINNED}


def run(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "momalisa", "walk", *arguments]
    variables = {**os.environ, "COLUMNS": str(columns), "MOMALISA_URL": "http://127.0.0.1:1"}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_every_field_of_the_api_is_an_option_of_the_same_name() -> None:
    of_files = {"pinned"}  # only a file has it
    assert WalkRequest.model_fields.keys() - of_files <= inspect.signature(main.walk).parameters.keys()
    assert sorted(name for names in PANELS.values() for name in names) == sorted(SETTINGS)


def test_the_help_fits_a_screen_of_100_columns_by_groups() -> None:
    lines = run("--help", columns=100).stdout.splitlines()
    groups = [line.split()[1] for line in lines if line.startswith("╭")]
    assert groups == ["Options", "Start", "Motion", "Pictures"]
    assert len(lines) <= 50
    shown = {word for line in lines for word in line.split() if word.startswith("--")}
    fields = WalkRequest.model_fields.keys() - {"prompts", "pinned"}
    assert {f"--{name.replace('_', '-')}" for name in fields} <= shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SAVED),
        ({"fps": 5, "public": False}, {**SAVED, "fps": 5, "public": False}),
        ({"frames": 9}, {"prompts": ["a cat", "a dog"], "frames": 9, "seed": 7, "seeds": [7, 8]}),
        ({"seed": 3}, {"prompts": ["a cat", "a dog"], "frames": 2, "seed": 3}),
        ({"seeds": [3, 4]}, {"prompts": ["a cat", "a dog"], "frames": 2, "seeds": [3, 4]}),
    ],
)
def test_options_change_what_a_file_says(tmp_path: Path, given: dict[str, Any], expected: dict[str, Any]) -> None:
    file = tmp_path / "walk.json"
    file.write_text(json.dumps(SAVED))
    options = {"weights": None, "steps": None, **given}
    for like, settings_file in ((file, None), (None, file)):
        assert request.body([], options, like=like, settings_file=settings_file) == expected


def test_prompts_replace_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "walk.json"
    file.write_text(json.dumps(SAVED))
    assert request.body(["a", "b", "c"], {}, like=file) == {"prompts": ["a", "b", "c"], "frames": 2, "seed": 7}


def test_a_file_of_settings_need_not_name_prompts(tmp_path: Path) -> None:
    file = tmp_path / "fast.json"
    file.write_text('{"steps": 2}')
    assert request.body(["a", "b"], {}, settings_file=file) == {"steps": 2, "prompts": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--like=README.md"],
            "README.md has no settings of a whole walk. Name the GIF, MP4, WebP or ZIP of one, or its walk.json.",
        ),
        (["--like=nowhere.gif"], "nowhere.gif cannot be read: No such file or directory."),
        (["--settings=README.md"], "README.md is not JSON: Expecting value: line 1 column 1 (char 0)."),
        (["--settings=nowhere"], "nowhere cannot be read: No such file or directory."),
        (["--like=a.gif", "--from-walk=7"], "--from-walk, --like and --settings exclude each other."),
        ([], "Name two or more stops, or something to start from: --from-walk, --like or --settings."),
    ],
)
def test_what_a_walk_cannot_start_from_is_said_in_a_sentence(arguments: list[str], sentence: str) -> None:
    refused = run(*arguments)
    assert (refused.returncode, refused.stderr) == (1, f"{sentence}\n")


def test_numbers_of_stops_are_separated_by_commas() -> None:
    refused = run("a", "b", "--seeds=1,two")
    assert refused.returncode == 2
    assert "numbers such as 1,2,3 are needed, got 1,two" in refused.stderr


def test_variations_that_succeeded_are_saved_beside_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gif = {"url": "/walk.gif", "bytes": 6, "width": 64, "height": 64, "enlarged_from": None}
    common = {
        "prompts": ["a", "b"],
        "frames_total": 2,
        "progress": {"frames_done": 2},
        "done": True,
        "warnings": [],
    }
    failed = {**common, "id": "1", "status": "failed", "error": {"message": "The model is gone."}, "artifacts": {}}
    made = {**common, "id": "2", "status": "succeeded", "error": None, "artifacts": {"gif": gif}}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, json={**failed, "variations": [made]})
        return httpx.Response(200, content=b"GIF89a")

    def client(url: str) -> Client:
        made = Client(url)
        made._http = httpx.Client(base_url=url, transport=httpx.MockTransport(answer))
        return made

    monkeypatch.setattr(main, "_client", client)
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(main.app, ["walk", "a", "b", "--variations=2", "--url=http://server"])
    assert (ended.exit_code, ended.stderr) == (1, "Walk 1 did not succeed. The model is gone.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a-to-b-2.gif"]
