"""Images that no other test builds, on stand-ins for the images that they are made from.

The stand-ins for the images of tools have the programs themselves: kubectl and Helm as npm has them, Compose as
PyPI has it, and this machine's Docker. Only gcloud is a script.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from momalisa.settings import ROOT
from tests.infra.docker import COMPOSE, DIGEST, Docker

ANSIBLE = ROOT / "infra" / "ansible"
TOOLS = ROOT / ".venv" / "kubernetes-tools"
PLAYBOOKS = sorted(path.name for path in ANSIBLE.glob("*.yml") if path.name != "inventory.yml")
GCLOUD = """#!/bin/sh
case "$*" in
"components install --quiet "*) ln -s gcloud "$(dirname "$0")/$4" ;;
*) echo "$(basename "$0") $*" && exec "$CLOUDSDK_PYTHON" --version ;;
esac
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
        docker.make_image(DIGEST.sub("", image), files)
    file = docker.dockerfile(dockerfile)
    docker("build", "--network=host", f"--file={file}", "--tag=momalisa-deployment", str(ROOT))
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
        ("gke-gcloud-auth-plugin --version", "gke-gcloud-auth-plugin --version\nPython 3.11."),
        ("ssh-keygen -q -t ed25519 -N '' -f /tmp/key -C momalisa", ""),
    ],
)
def test_the_image_has_the_tools_that_playbooks_call(deployment: Docker, command: str, answer: str) -> None:
    assert answer in in_it(deployment, "sh", "-c", command)


def test_shell_keeps_its_state_apart_from_that_of_a_user_of_linux(deployment: Docker, tmp_path: Path) -> None:
    """In the container, a file of such a user is not root's, so that ssh would refuse it."""
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text("Host *\n")
    os.chown(ssh / "config", 1000, 1000)
    entered = subprocess.run(
        [ANSIBLE / "shell.sh", "sh", "-c", "ssh -G momalisa && touch /root/.ssh/momalisa && docker version"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **deployment.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert entered.returncode == 0, entered.stderr
    assert "hostname momalisa" in entered.stdout
    assert "Server:" in entered.stdout, "the daemon of this machine"
    assert [path.name for path in ssh.iterdir()] == ["config"]
    assert (tmp_path / ".config" / "momalisa" / "ssh" / "momalisa").exists()
