"""The containers of a VM: docker-compose.yml with what the playbooks write, behind the VM's own NGINX.

There is no Google here, so the bucket cannot be reached and nothing is rendered.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from momalisa.local.processes import free_port
from momalisa.settings import ROOT
from tests.infra.docker import STAND_INS, Docker
from tests.infra.nginx import serving, weaknesses
from tests.infra.upgrades import IMAGES, VERSION, asked_all_the_time, make_next_version, versions
from tests.operations import commands

ANSIBLE = ROOT / "infra" / "ansible"
NEXT = "8.0.1"
NGINX = """
load_module modules/ngx_http_js_module.so;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    include {folder}/momalisa.conf;
}}
"""


def templated(name: str, **variables: Any) -> str:
    """Return what Ansible makes of a template."""
    templates = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    templates.filters |= {"to_json": json.dumps, "dirname": os.path.dirname}
    text = (ANSIBLE / "templates" / name).read_text()
    return templates.from_string(text).render(lookup=lambda _, path: Path(path).read_text().rstrip(), **variables)


def play() -> dict[str, Any]:
    """Return the play that sets up the containers."""
    (found,) = yaml.safe_load((ANSIBLE / "deploy-setup-containers.yml").read_text())
    return dict(found)


@dataclass
class Instance:
    """The containers of a VM, and where its own NGINX finds them."""

    docker: Docker
    folder: Path
    name: str
    port: int
    version: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """What leads Compose to them."""
        files = [*self.docker.compose_files, self.folder / "compose.instance.yml", STAND_INS / "no_workers.yml"]
        return {"COMPOSE_PROJECT_NAME": self.name, "COMPOSE_FILE": os.pathsep.join(map(str, files))}

    def describe(self, version: str) -> None:
        """Write the differences of a VM, with the images of a version."""
        text = templated(
            "compose.instance.yml.j2",
            **{f"{name}_image": f"{IMAGES}-{name}:{version}" for name in ("api", "frontend")},
            worker_image=f"{IMAGES}-worker-cpu:{version}",
            bucket="no-such-bucket",
            render_workers=1,
            alert_slack_url="",
        )
        behind = "./behind-nginx.conf"
        assert behind in text
        text = text.replace(behind, str(ANSIBLE / "files" / "behind-nginx.conf"))
        text = text.replace("127.0.0.1:8080:", f"127.0.0.1:{self.port}:")
        (self.folder / "compose.instance.yml").write_text(text)
        self.version = version

    def run(self) -> None:
        """Run the containers by the commands of the playbook's tasks, in their order."""
        for task in play()["tasks"]:
            options = task.get("community.docker.docker_compose_v2")
            if options and "state" not in options:
                alone = [] if options.get("dependencies", True) else ["--no-deps"]
                self.compose("up", "--detach", "--wait", *alone, *options.get("services", []))

    def compose(self, *arguments: str) -> str:
        """Run Compose on them."""
        return self.docker.compose(*arguments, **self.variables)


@pytest.fixture(scope="module")
def instance(museum: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("instance")
    museum.compose("build", "frontend")
    museum("tag", "momalisa-frontend", f"{IMAGES}-frontend:{VERSION}")
    instance = Instance(museum, folder, "instance", free_port())
    instance.describe(VERSION)
    try:
        instance.run()
        yield instance
    finally:
        instance.compose("down", "--volumes")


def website(folder: Path, *, tls: bool) -> str:
    """Return what the playbook writes for the VM's own NGINX."""
    return templated(
        "nginx.conf.j2",
        tls=tls,
        domain="walks.example" if tls else "",
        certificate=f"{folder}/fullchain.pem",
        webroot=folder,
        checkout=ROOT,
        hold=ROOT / "infra" / "nginx" / "hold.js",
    )


def configured(folder: Path, site: str) -> Path:
    """Write a configuration that includes this one, and return its file."""
    (folder / "momalisa.conf").write_text(site)
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder))
    return file


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_the_configuration_of_the_vm_has_no_known_weakness(tmp_path: Path, *, tls: bool) -> None:
    assert weaknesses(configured(tmp_path, website(tmp_path, tls=tls))) == []


@pytest.fixture
def url(instance: Instance, tmp_path: Path) -> Iterator[str]:
    """The address of the VM's own NGINX, without TLS."""
    port = free_port()
    site = website(tmp_path, tls=False)
    for theirs, ours in {
        "listen 80 ": f"listen 127.0.0.1:{port} ",
        "listen [::]:80 default_server;": "",
        "127.0.0.1:8080": f"127.0.0.1:{instance.port}",
    }.items():
        assert theirs in site
        site = site.replace(theirs, ours)
    with serving(configured(tmp_path, site), "user root; daemon off;", f"http://127.0.0.1:{port}") as url:
        yield url


def test_an_upgrade_of_the_vm_fails_no_request(instance: Instance, url: str, tmp_path: Path) -> None:
    docker = instance.docker
    make_next_version(docker, tmp_path, NEXT, VERSION)
    (tmp_path / "Dockerfile").write_text(f"FROM momalisa-frontend\nENV MOMALISA_VERSION={NEXT}\n")
    docker("build", "--tag", f"{IMAGES}-frontend:{NEXT}", str(tmp_path))
    with asked_all_the_time(url) as answers:
        instance.describe(NEXT)
        instance.run()
        assert versions(docker, **instance.variables) == {NEXT}
    assert {status for status, _ in answers} == {HTTPStatus.OK}
    slowest = max(seconds for _, seconds in answers)
    print(f"{len(answers)} requests, the slowest took {slowest:.1f} s")  # noqa: T201


def test_a_backup_of_the_vm_is_restored_by_the_commands_for_containers(instance: Instance, tmp_path: Path) -> None:
    files = ":".join(play()["module_defaults"]["community.docker.docker_compose_v2"]["files"])
    assert f"COMPOSE_FILE={files}" in (ROOT / "docs" / "operations.md").read_text()

    instance.compose("exec", "--no-TTY", "api", "momalisa", "keys", "create", "a program")
    instance.docker.shell(commands("Back up containers"), BACKUP=str(tmp_path), **instance.variables)
    with tarfile.open(tmp_path / "files.tar") as archive:
        folders = {name for name in archive.getnames() if name.startswith("bucket")}
        assert {"run/secrets/secret_keys", "run/secrets/database_url"} <= set(archive.getnames())
        assert folders == {"bucket"}, "the walks are in Google's bucket"

    restored = Instance(instance.docker, tmp_path, "restored", free_port())
    restored.describe(instance.version)
    try:
        instance.docker.shell(commands("Restore containers"), BACKUP=str(tmp_path), **restored.variables)
        assert "a program" in restored.compose("exec", "--no-TTY", "api", "momalisa", "keys", "list")
        kept = ("exec", "--no-TTY", "api", "cat", "/run/secrets/secret_keys")
        assert restored.compose(*kept) == instance.compose(*kept)
    finally:
        restored.compose("down", "--volumes")


def test_the_vm_goes_back_to_the_version_before(instance: Instance) -> None:
    assert versions(instance.docker, **instance.variables) == {NEXT}
    instance.describe(VERSION)
    instance.docker.shell(commands("Go back"), **instance.variables)
    assert instance.compose("exec", "--no-TTY", "api", "printenv", "MOMALISA_VERSION").strip() == VERSION
