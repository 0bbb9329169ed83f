"""All of MoMALisa in containers on this machine: docker-compose.yml and infra/docker/, as they are."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from momalisa.client import Client
from momalisa.local.processes import free_port
from momalisa.settings import ROOT
from tests.infra.docker import COMPOSE, STAND_INS, Docker
from tests.infra.upgrades import IMAGES, VERSION, asked_all_the_time, containers, make_next_version, versions
from tests.operations import commands

URL = "http://127.0.0.1:8080"
ONE_SHOTS = {"secrets", "migrate"}


def services(*profiles: str, **variables: str) -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml by name, as Compose understands them."""
    command = [str(COMPOSE), *(f"--profile={profile}" for profile in profiles), "config", "--format=json"]
    environment = {"PATH": os.environ["PATH"]} | variables
    shown = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, dict[str, Any]] = json.loads(shown)["services"]
    return found


@pytest.mark.parametrize("dockerfile", sorted(ROOT.glob("infra/*/*Dockerfile")), ids=lambda path: path.name)
def test_a_dockerfile_keeps_the_rules(dockerfile: Path) -> None:
    # Debian's packages are not pinned: a release of Debian changes them for the sake of security only.
    hadolint = [str(Path(sys.executable).parent / "hadolint"), "--ignore", "DL3008", str(dockerfile)]
    assert not subprocess.run(hadolint, check=False, stdout=subprocess.PIPE, text=True).stdout


def test_the_cpu_renders_unless_the_gpu_does() -> None:
    assert "render" in services()
    assert "render-gpu" not in services()
    with_gpu = services("gpu")
    assert "render" not in with_gpu
    devices = with_gpu["render-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}], "a worker is started on each"


def test_the_images_of_the_release_are_pulled_or_built_for_the_cpu_or_cuda() -> None:
    found = services("cpu", "gpu")
    assert {name: service["image"] for name, service in found.items() if service["image"].startswith(IMAGES)} == {
        **dict.fromkeys(("api", "reconciler", "secrets", "migrate"), f"{IMAGES}-api:{VERSION}"),
        **dict.fromkeys(("render", "assemble"), f"{IMAGES}-worker-cpu:{VERSION}"),
        "render-gpu": f"{IMAGES}-worker:{VERSION}",
    }
    assert found["assemble"]["build"]["args"]["TORCH_INDEX"] == "https://download.pytorch.org/whl/cpu"
    assert "TORCH_INDEX" not in found["render-gpu"]["build"]["args"]
    # Without a policy, Compose pulls missing images, and builds those that it cannot pull.
    assert not any("pull_policy" in service for service in found.values())
    assert not [name for name, service in found.items() if service.get("build", {}).get("pull")]
    others = services("gpu", MOMALISA_REGISTRY="registry.example/us", MOMALISA_VERSION="9.9.9")
    assert others["api"]["image"] == "registry.example/us/momalisa-api:9.9.9"
    assert others["api"]["build"]["args"]["MOMALISA_VERSION"] == "9.9.9"
    assert others["render-gpu"]["image"] == "registry.example/us/momalisa-worker:9.9.9"


@pytest.mark.parametrize(
    ("port", "bound"), [("", (None, "8080")), ("9000", (None, "9000")), ("127.0.0.1:9000", ("127.0.0.1", "9000"))]
)
def test_operators_choose_the_port(port: str, bound: tuple[str | None, str]) -> None:
    (published,) = services(MOMALISA_PORT=port)["nginx"]["ports"]
    assert (published.get("host_ip"), published["published"]) == bound


def test_nginx_is_replaced_when_its_configuration_changes() -> None:
    """Compose compares what docker-compose.yml says, not the files that it mounts."""
    text = hashlib.sha256()
    for file in sorted(path for path in (ROOT / "infra" / "nginx").rglob("*") if path.is_file()):
        text.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    assert services()["nginx"]["labels"] == {"momalisa.configuration": text.hexdigest()[:12]}


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_prometheus_finds_each_container_once(profile: str) -> None:
    configuration = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())
    (scraped,) = (job for job in configuration["scrape_configs"] if job["job_name"] == "momalisa")
    (found,) = scraped["dns_sd_configs"]
    for name, service in services(profile).items():
        names = {name, *((service.get("networks") or {}).get("default") or {}).get("aliases", [])}
        assert len(names & set(found["names"])) <= 1, name


def test_monitoring_comes_with_its_profile_only() -> None:
    monitoring = {"prometheus", "alertmanager", "grafana"}
    assert not monitoring & set(services())
    assert {*monitoring, "render"} <= set(services("cpu", "monitoring"))


def test_what_monitoring_mounts_is_there() -> None:
    mounted = services("cpu", "monitoring")
    for name in ("prometheus", "alertmanager", "grafana"):
        sources = [Path(volume["source"]) for volume in mounted[name]["volumes"] if volume["type"] == "bind"]
        assert sources
        assert all(source.exists() for source in sources), name


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_service_is_confined_watched_and_pinned(profile: str) -> None:
    for name, service in services(profile, "monitoring").items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert "healthcheck" in service or name in ONE_SHOTS, name
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-|$)", service["image"]), f"{name} has no exact version"


def test_digests_that_renovate_adds_are_left_out_for_stand_ins(tmp_path: Path) -> None:
    digest = f"@sha256:{'0' * 64}"
    found = Docker(tmp_path).differences({"redis": {"image": f"redis:8.2.2-alpine{digest}"}})
    assert found["redis"] == {"image": "redis:8.2.2-alpine"}


def service_of(container: dict[str, Any]) -> str:
    """Return the name of the service that a container is for."""
    name: str = container["Config"]["Labels"]["com.docker.compose.service"]
    return name


def test_everything_runs_and_is_well(museum: Docker) -> None:
    for container in containers(museum):
        state = container["State"]
        if service_of(container) in ONE_SHOTS:
            assert (state["Status"], state["ExitCode"]) == ("exited", 0)
        else:
            assert (state["Status"], state["Health"]["Status"]) == ("running", "healthy")
    assert len(containers(museum, "render")) == 2


def test_no_part_is_root_or_can_write_but_to_its_volumes(museum: Docker) -> None:
    for container in containers(museum):
        name = service_of(container)
        assert container["HostConfig"]["ReadonlyRootfs"], name
        assert container["Config"]["User"] not in {"", "0", "root"}, name
        if name not in ONE_SHOTS:
            processes = museum("top", container["Id"], "-eo", "uid,pid").splitlines()[1:]
            assert processes, name
            assert "0" not in {process.split()[0] for process in processes}, name


def test_the_api_knows_no_torch(museum: Docker) -> None:
    code = "import sys; from importlib.util import find_spec; sys.exit(find_spec('torch') is not None)"
    museum.compose("exec", "--no-TTY", "api", "python", "-c", code)


def test_operators_have_their_command(museum: Docker) -> None:
    museum.compose("exec", "--no-TTY", "api", "momalisa", "keys", "create", "a program")
    assert "a program" in museum.compose("exec", "--no-TTY", "api", "momalisa", "keys", "list")


def test_a_walk_ends_well_though_a_worker_is_killed(museum: Docker) -> None:
    with Client(URL) as client:
        walk = client.submit(["a giraffe", "a battleship"], frames=48, steps=6, seed=7)
        updates = client.watch(walk)
        while not walk["progress"]["frames_done"]:
            walk = next(updates)
        assert not walk["done"]
        museum("kill", containers(museum, "render")[0]["Id"])
        for walk in updates:  # noqa: B007 - the last one counts
            pass
        assert walk["status"] == "succeeded"
        assert walk["progress"]["frames_done"] == 48
        gif = fetched(walk["artifacts"]["gif"]["url"])
        assert gif[:6] == b"GIF89a"
        assert len(gif) == walk["artifacts"]["gif"]["bytes"]
        for frame in walk["frames"]:
            assert frame["url"]
            assert fetched(frame["url"])[:4] == b"\x89PNG"
    assert sum(container["State"]["Running"] for container in containers(museum, "render")) == 1


def test_the_image_of_the_website_has_its_files_compressed(museum: Docker) -> None:
    """Clusters and VMs use it instead of NGINX's own."""
    museum.compose("build", "frontend")
    confined = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL")
    museum("run", "--detach", "--name=frontend", "--network=momalisa_default", *confined, "momalisa-frontend")
    try:
        (container,) = json.loads(museum("inspect", "frontend"))
        address = container["NetworkSettings"]["Networks"]["momalisa_default"]["IPAddress"]
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False) as client:
            answer = client.get(f"http://{address}:8080/static/base.css", headers={"Accept-Encoding": "gzip"})
            assert client.get(f"http://{address}:8080/healthz").is_success
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["content-length"]  # known before, so not compressed on the way
        assert answer.text == (ROOT / "frontend" / "static" / "base.css").read_text()
        assert container["Config"]["User"] == "10001:10001"
        assert container["Config"]["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    finally:
        museum("rm", "--force", "frontend")


def test_images_say_what_they_are(museum: Docker) -> None:
    for image in (f"{IMAGES}-api:{VERSION}", f"{IMAGES}-worker-cpu:{VERSION}"):
        (found,) = json.loads(museum("image", "inspect", image))
        assert found["Config"]["Labels"]["org.opencontainers.image.version"] == VERSION
        assert found["Config"]["Labels"]["org.opencontainers.image.source"].startswith("https://")
        assert f"MOMALISA_VERSION={VERSION}" in found["Config"]["Env"]
        assert found["Config"]["User"] == "10001:10001"


def test_the_renderer_for_vertex_ai_is_well_once_its_model_is_loaded(museum: Docker) -> None:
    """What it renders is for `integration/test_vertex.py`. Its torch is there already, as the workers'."""
    museum.compose("build", "vertex")
    port, health = free_port(), "/v1/endpoints/7/deployedModels/8"
    museum(
        *("run", "--detach", "--name=vertex", "--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"),
        *(
            f"--env=AIP_HTTP_PORT={port}",
            f"--env=AIP_HEALTH_ROUTE={health}",
            f"--env=AIP_PREDICT_ROUTE={health}:predict",
        ),
        "momalisa-vertex",
    )
    try:
        deadline = time.monotonic() + 120
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as platform:
            while health_of(platform, health) != HTTPStatus.OK:
                assert time.monotonic() < deadline, museum("logs", "vertex")
                time.sleep(0.2)
            assert platform.post(f"{health}:predict", json={"instances": []}).status_code == HTTPStatus.BAD_REQUEST
        users = museum("top", "vertex", "-eo", "uid,pid").splitlines()[1:]
        assert {user.split()[0] for user in users} == {"10001"}
        museum("stop", "vertex")
        (vertex,) = json.loads(museum("inspect", "vertex"))
        assert vertex["State"]["ExitCode"] == 0
    finally:
        museum("rm", "--force", "vertex")


def health_of(platform: httpx.Client, route: str) -> int | None:
    """Return the status that a container answers, or None as long as it does not listen."""
    try:
        return platform.get(route).status_code
    except httpx.ConnectError:
        return None


def fetched(url: str) -> bytes:
    """Return what a browser gets from a URL, which must lead through NGINX."""
    assert url.startswith(URL)
    return httpx.get(url).raise_for_status().content


def test_a_backup_is_restored_in_another_folder_under_another_name(museum: Docker, tmp_path: Path) -> None:
    with Client(URL) as client:
        *_, walk = client.walk(["a giraffe", "a battleship"], frames=4, steps=2)
        gif = fetched(walk["artifacts"]["gif"]["url"])
    museum.shell(commands("Back up containers"), BACKUP=str(tmp_path))
    with tarfile.open(tmp_path / "files.tar") as archive:
        assert {"run/secrets/secret_keys", "run/secrets/database_url"} <= set(archive.getnames())

    port = str(free_port())
    other = {"COMPOSE_PROJECT_NAME": "restored", "MOMALISA_PORT": port, "BACKUP": str(tmp_path)}
    # Without workers: the walk is finished, and this machine may have two processors.
    files = [*museum.compose_files, STAND_INS / "no_workers.yml"]
    other |= {"COMPOSE_FILE": os.pathsep.join(map(str, files))}
    try:
        museum.shell(commands("Restore containers"), **other)
        with Client(f"http://127.0.0.1:{port}") as client:
            again = client.get(walk["id"])
            assert again["status"] == "succeeded"
            assert client.download(again["artifacts"]["gif"]["url"]) == gif
            assert [frame["position"] for frame in again["frames"]] == [
                frame["position"] for frame in walk["frames"]
            ]
        kept = ["exec", "--no-TTY", "api", "cat", "/run/secrets/secret_keys"]
        assert museum.compose(*kept, **other) == museum.compose(*kept)
    finally:
        museum.compose("down", "--volumes", **other)


@pytest.mark.parametrize(
    ("heading", "before", "after", "migration_seconds", "most_seconds"),
    [
        ("Upgrade containers", VERSION, "7.0.1", 5, 60),
        ("Upgrade containers without a pause", "7.0.1", "7.0.2", 20, 15),
    ],
)
def test_an_upgrade_with_a_migration_fails_no_request_and_loses_no_walk(
    museum: Docker,
    tmp_path: Path,
    heading: str,
    before: str,
    after: str,
    migration_seconds: int,
    most_seconds: float,
) -> None:
    make_next_version(museum, tmp_path, after, before, migration_seconds)
    (nginx,) = containers(museum, "nginx")
    with Client(URL) as client, asked_all_the_time(URL) as answers:
        walk = client.submit(["a giraffe", "a battleship"], frames=48, steps=6)
        museum.shell(commands(heading), MOMALISA_VERSION=after)  # as `git pull` would set it
        assert versions(museum) == {after}
        assert [each["Id"] for each in containers(museum, "nginx")] == [nginx["Id"]]
        *_, walk = client.watch(walk)
    assert walk["status"] == "succeeded"
    assert walk["progress"]["frames_done"] == 48
    assert {status for status, _ in answers} == {HTTPStatus.OK}
    slowest = max(seconds for _, seconds in answers)
    print(f"{heading}: {len(answers)} requests, the slowest took {slowest:.1f} s")  # noqa: T201
    assert slowest < most_seconds


def test_a_version_is_left_for_the_one_before(museum: Docker) -> None:
    assert versions(museum) == {"7.0.2"}
    museum.shell(commands("Go back"), MOMALISA_VERSION=VERSION)
    assert museum.compose("exec", "--no-TTY", "api", "printenv", "MOMALISA_VERSION").strip() == VERSION
    assert httpx.get(f"{URL}/v1/walks", timeout=30).is_success
