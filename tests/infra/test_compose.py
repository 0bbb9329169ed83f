"""All of MoMALisa in containers on this machine: docker-compose.yml and infra/docker/, as they are."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from momalisa.client import Client
from momalisa.local.processes import free_port
from momalisa.settings import ROOT
from tests.infra.docker import COMPOSE, STAND_INS, Docker

URL = "http://127.0.0.1:8080"
ONE_SHOTS = {"secrets", "migrate"}


def services(*profiles: str) -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml by name, as Compose understands them."""
    command = [str(COMPOSE), *(f"--profile={profile}" for profile in profiles), "config", "--format=json"]
    shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
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
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_monitoring_comes_with_its_profile_only() -> None:
    assert not {"prometheus", "grafana"} & set(services())
    assert {"prometheus", "grafana", "render"} <= set(services("cpu", "monitoring"))


def test_what_monitoring_mounts_is_there() -> None:
    mounted = services("cpu", "monitoring")
    for name in ("prometheus", "grafana"):
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
        assert service["image"].startswith("momalisa-") or ":" in service["image"], name
        assert ":latest" not in service["image"], name


@pytest.fixture(scope="session")
def museum(docker: Docker) -> Iterator[Docker]:
    """All services, two render workers among them, started by the one command."""
    try:
        docker.compose("up", "--detach", "--build", "--wait", "--scale", "render=2")
        yield docker
    except subprocess.CalledProcessError:
        print(docker.compose("ps", "--all"), docker.compose("logs", "--tail", "30"), sep="\n")  # noqa: T201
        raise
    finally:
        docker.compose("down", "--volumes")


def containers(docker: Docker, service: str = "") -> list[dict[str, Any]]:
    """Return what the daemon knows of the containers, of all services or of one."""
    ids = docker.compose("ps", "--all", "--quiet", *([service] if service else [])).split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids))
    return found


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


def test_nobody_is_root_and_nobody_can_write_but_to_what_is_named(museum: Docker) -> None:
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


def test_files_of_the_website_are_compressed_by_whoever_built_the_image(museum: Docker) -> None:
    answer = httpx.get(f"{URL}/static/base.css", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-length"]  # known before, so not compressed on the way
    assert answer.text == (ROOT / "frontend" / "static" / "base.css").read_text()


def test_a_walk_ends_well_though_a_worker_is_killed_and_is_still_there_after_down_and_up(museum: Docker) -> None:
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

    museum.compose("down")
    assert not museum("ps", "--all", "--quiet")
    museum.compose("up", "--detach", "--wait")

    with Client(URL) as client:
        again = client.get(walk["id"])
        assert again["artifacts"] == walk["artifacts"]
        assert again["frames"] == walk["frames"]
        assert [other["id"] for other in client.page()["walks"]] == [walk["id"]]
        assert fetched(again["artifacts"]["gif"]["url"]) == gif


def test_nginx_finds_an_api_that_took_the_place_of_another(museum: Docker) -> None:
    (first,) = containers(museum, "api")
    assert httpx.get(f"{URL}/v1/walks").is_success
    museum.compose("up", "--detach", "--wait", "--no-recreate", "--scale", "api=2", "api")
    museum("rm", "--force", first["Id"])
    deadline = time.monotonic() + 30
    while not httpx.get(f"{URL}/v1/walks").is_success:
        assert time.monotonic() < deadline, "NGINX looks for the API where it was"
        time.sleep(0.5)


def test_the_renderer_for_vertex_ai_is_well_once_its_model_is_loaded(museum: Docker) -> None:
    """What it renders is for `integration/test_vertex.py`. Its torch is there already, as the workers'."""
    museum.compose("--file", str(STAND_INS / "vertex.yml"), "build", "vertex")
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
