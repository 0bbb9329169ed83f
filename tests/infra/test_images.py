"""Images that no other test builds, on stand-ins for the images that they are made from.

The stand-ins for the images of tools have the programs themselves: kubectl and Helm as npm has them, Compose as
PyPI has it, and this machine's Docker. Only gcloud is a script.
"""

import shutil
from pathlib import Path

import pytest

from momalisa.settings import ROOT
from tests.infra.docker import COMPOSE, Docker

ANSIBLE = ROOT / "infra" / "ansible"
TOOLS = ROOT / ".venv" / "kubernetes-tools"
PLAYBOOKS = sorted(path.name for path in ANSIBLE.glob("*.yml") if path.name != "inventory.yml")
GCLOUD = """#!/bin/sh
echo "gcloud $*" && exec "$CLOUDSDK_PYTHON" --version
"""


@pytest.fixture(scope="module")
def deployment(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Docker:
    """The daemon, with the image of all the tools that a deployment needs."""
    gcloud = tmp_path_factory.mktemp("gcloud") / "gcloud"
    gcloud.write_text(GCLOUD)
    client = Path(str(shutil.which("docker")))
    plugins = "usr/local/libexec/docker/cli-plugins"
    programs = {
        "google-cloud-cli": {"google-cloud-sdk/bin/gcloud": gcloud},
        "docker": {"usr/local/bin/docker": client, f"{plugins}/docker-compose": COMPOSE},
        "kubectl": {"bin/kubectl": TOOLS / "kubectl" / "kubectl"},
        "helm": {"usr/bin/helm": TOOLS / "helm" / "helm"},
    }
    dockerfile = ROOT / "infra" / "docker" / "deployment.Dockerfile"
    for name, files in programs.items():
        (image,) = {
            word
            for line in dockerfile.read_text().splitlines()
            if line.startswith("FROM ")
            for word in line.split()
            if word.rpartition("/")[2].startswith(f"{name}:")
        }
        docker.make_image(image, files)
    docker("build", "--network=host", f"--file={dockerfile}", "--tag=momalisa-deployment", str(ROOT))
    return docker


def in_it(docker: Docker, *command: str, checkout: Path = ROOT) -> str:
    """Run a command in the container as `shell.sh` does, as far as there is no cloud; return what it prints."""
    mounted = f"--volume={checkout}:/checkout:ro"
    return docker("run", "--rm", "--network=host", mounted, "momalisa-deployment", *command)


def test_every_playbook_finds_all_its_modules_in_the_image(deployment: Docker) -> None:
    said = in_it(deployment, "ansible-playbook", "--syntax-check", *PLAYBOOKS)
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("playbook: ")] == PLAYBOOKS


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("kubectl version --client", "Client Version: v1."),
        ("helm version", 'Version:"v3.'),
        ("docker --version", "Docker version "),
        ("docker compose version", "Docker Compose version v2."),
        ("gcloud info", "gcloud info\nPython 3.11."),
        ("ssh-keygen -q -t ed25519 -N '' -f /tmp/key -C momalisa", ""),
    ],
)
def test_the_image_has_the_tools_that_playbooks_call(deployment: Docker, command: str, answer: str) -> None:
    assert answer in in_it(deployment, "sh", "-c", command)
