"""The playbooks for the VM, run twice each against a container of Debian 13 that stands in for it.

In it, systemd runs as on a VM, the disk for data is a loop device, and the network is its own; certificates come
from Pebble, a real ACME server. It needs root, Debian's docker.io, docker-registry and mmdebstrap, and cgroups of
version 1.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from momalisa.local.processes import free_port
from tests.conftest import until
from tests.infra.docker import CACHE, Docker, remove
from tests.infra.google import Google
from tests.infra.playbooks import BIN, FOLDER, PROJECT, Played, run
from tests.receiver import certificates

DOMAIN = "momalisa.test"
FROM_DEBIAN = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps,python3,curl,pebble,docker-buildx"
BUILDX = "usr/libexec/docker/cli-plugins/docker-buildx"
SERVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = {body}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    do_POST = do_GET
HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


class Instance:
    """The container, by the daemon that runs it."""

    name = "instance"

    def __init__(self, docker: Docker) -> None:
        self.docker = docker

    def sh(self, script: str) -> str:
        """Run a script in the instance."""
        return self.docker("exec", self.name, "sh", "-euc", script)

    def serve(self, port: int, body: str) -> None:
        """Answer all requests on a port of the instance by a Python expression, in the unit `served-PORT`."""
        script = SERVER.format(port=port, body=body)
        unit = f"--unit=served-{port}"
        self.docker("exec", self.name, "systemd-run", "--quiet", "--collect", unit, "python3", "-c", script)
        self.sh(
            f"curl --silent --retry 20 --retry-connrefused --retry-delay 1 --output /dev/null http://127.0.0.1:{port}/"
        )

    def play(self, name: str, *arguments: str, **variables: str) -> Played:
        """Run a playbook against it."""
        usual = {
            "ansible_connection": "community.docker.docker",
            "ansible_host": self.name,
            "ansible_user": "root",
            "project_id": "my-project",
            "version": "v1",
            "domain": DOMAIN,
            "acme_email": "me@example.org",
            "acme_directory": "https://localhost:14000/dir",
        }
        extra = [f"--extra-vars={key}={value}" for key, value in {**usual, **variables}.items()]
        run = subprocess.run(
            [BIN / "ansible-playbook", name, *extra, *arguments],
            cwd=FOLDER,
            env={**os.environ, **self.docker.variables, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        played = Played(run)
        assert played.code == 0, played.output
        return played


def file_system() -> Path:
    """Return the archive of Debian 13 with systemd; made once, and kept for later runs."""
    # Nothing has to survive a crash of this machine. Without syncing, packages are installed much faster.
    options = ["--variant=minbase", "--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*"]
    command = ["mmdebstrap", "--quiet", *options, f"--include={FROM_DEBIAN}", "trixie"]
    archive = CACHE / f"trixie-{hashlib.sha256(' '.join(command).encode()).hexdigest()[:8]}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = CACHE / "new.tar"
        subprocess.run([*command, new], check=True)
        new.rename(archive)
    return archive


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A container of Debian 13 with systemd, a disk and a network of its own."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip(
            "systemd, without privileges in a container, needs cgroups of version 1; this machine has version 2."
        )
    folder = tmp_path_factory.mktemp("instance")
    disk = folder / "disk.img"
    disk.touch()
    os.truncate(disk, 300 * 2**20)
    attached = subprocess.run(["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True)
    loop = attached.stdout.strip()
    docker = Docker(folder)
    instance = Instance(docker)
    try:
        docker.start()
        docker("import", str(file_system()), "debian:13")
        docker("network", "create", "outside")
        # Not privileged: what is left out, a VM's root has, too, but not everybody who runs this.
        docker(
            *("run", "--detach", "--name", instance.name, "--hostname", "instance", "--network", "outside"),
            *("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--tmpfs=/run", "--tmpfs=/tmp"),
            *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--env=container=docker"),
            "--env=SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
            *(f"--device={loop}:/dev/disk/by-id/google-momalisa-data", f"--add-host={DOMAIN}:127.0.0.1"),
            *("debian:13", "/sbin/init"),
        )
        until(lambda: instance.sh("systemctl is-system-running --wait || true") in {"running\n", "degraded\n"})
        yield instance
        docker("rm", "--force", instance.name)
        docker("network", "rm", "outside")
    finally:
        docker.stop()
        subprocess.run(["losetup", "--detach", loop], check=True)
        remove(folder)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry of images."""
    address = f"127.0.0.1:{free_port()}"
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.json").write_text(json.dumps(configuration))  # JSON is YAML
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", tmp_path / "registry.json"], stdout=log, stderr=log)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:  # until it listens
            client.get(f"http://{address}/v2/").raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait()


def test_images_are_built_and_pushed_once(
    instance: Instance, registry: str, google: Google, tmp_path: Path
) -> None:
    """For Google's machines, though this one, as an ARM laptop does, built one of the names for itself before."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    images = [
        {"name": f"{registry}/{PROJECT}/momalisa/momalisa-{name}:v1", "dockerfile": "Dockerfile"}
        for name in ("api", "worker")
    ]
    plugins = Path(instance.docker.variables["DOCKER_CONFIG"]) / "cli-plugins"
    subprocess.run(["tar", "-xf", file_system(), "-C", tmp_path, f"./{BUILDX}"], check=True)
    (plugins / "docker-buildx").symlink_to(tmp_path / BUILDX)
    google.environment |= instance.docker.variables
    call = ("deploy-docker-images.yml", "--extra-vars", json.dumps({"images": images}))

    def platforms() -> set[str]:
        names = [image["name"] for image in images]
        return set(instance.docker("inspect", "--format={{.Os}}/{{.Architecture}}", *names).split())

    alone = json.dumps({"images": images[:1]})
    run(
        google,
        tmp_path,
        call[0],
        "--extra-vars",
        alone,
        registry=registry,
        checkout=tmp_path,
        image_platform="linux/arm64",
    )
    assert instance.docker("inspect", "--format={{.Architecture}}", images[0]["name"]).strip() == "arm64"
    run(google, tmp_path, *call, registry=registry, checkout=tmp_path)
    assert platforms() == {"linux/amd64"}
    place = f"projects/{PROJECT}/locations/us-central1/repositories/momalisa"
    assert google.resources[f"artifactregistry/{place}"]["format"] == "DOCKER"
    for name in ("api", "worker"):
        pushed = f"http://{registry}/v2/{PROJECT}/momalisa/momalisa-{name}"
        accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
        manifest = httpx.get(f"{pushed}/manifests/v1", headers=accept).json()
        described = httpx.get(f"{pushed}/blobs/{manifest['config']['digest']}").json()
        assert described["architecture"] == "amd64"

    google.requests.clear()
    assert run(google, tmp_path, *call, registry=registry, checkout=tmp_path).changed == 0
    assert google.changes == []


def test_instance_is_provisioned_once_and_a_disk_with_data_is_mounted_as_it_is(instance: Instance) -> None:
    instance.play("deploy-provision-instance.yml")
    assert instance.sh("findmnt --noheadings --output FSTYPE /srv/momalisa").strip() == "ext4"
    assert instance.sh("docker info --format '{{ .DockerRootDir }}'").strip() == "/srv/momalisa/docker"
    assert instance.sh("systemctl is-enabled docker").strip() == "enabled"
    assert "RequiresMountsFor=/srv/momalisa" in instance.sh("systemctl cat docker")
    instance.sh("echo precious > /srv/momalisa/kept")

    # A new instance with the disk of an earlier one: nothing else is done a second time.
    instance.sh(
        "systemctl stop docker docker.socket; umount --recursive /srv/momalisa; sed -i /momalisa/d /etc/fstab"
    )
    assert instance.play("deploy-provision-instance.yml").changed == 2  # mounted, and Docker started
    assert instance.sh("cat /srv/momalisa/kept") == "precious\n"


def described(instance: Instance, profile: str) -> dict[str, Any]:
    """Return the services of the VM as its Docker Compose understands them."""
    files = "-f docker-compose.yml -f compose.instance.yml"
    text = instance.sh(f"cd /srv/momalisa/app; docker compose {files} --profile {profile} config --format json")
    services: dict[str, Any] = json.loads(text)["services"]
    return services


def test_containers_use_images_of_the_registry_and_the_real_bucket(instance: Instance) -> None:
    """Only described: nothing can be fetched here, and test_compose.py runs the same file."""
    call = (
        "deploy-setup-containers.yml",
        "--skip-tags=start",
        "--extra-vars",
        '{"settings": {"BLOCKLIST": "/it$s"}, "alert_slack_url": "https://hooks.example/T0/x"}',
    )
    instance.play(*call)
    services = described(instance, "cpu")
    assert services.keys() == {
        *("nginx", "api", "reconciler", "render", "assemble", "secrets", "migrate", "postgres", "redis"),
    }
    ours = {name: service for name, service in services.items() if name not in {"postgres", "redis"}}
    place = "us-central1-docker.pkg.dev/my-project/momalisa"
    assert {name: service["image"] for name, service in ours.items()} == {
        "nginx": f"{place}/momalisa-frontend:v1",
        **dict.fromkeys(("api", "reconciler", "secrets", "migrate"), f"{place}/momalisa-api:v1"),
        **dict.fromkeys(("render", "assemble"), f"{place}/momalisa-worker:v1"),
    }
    assert not any("build" in service for service in services.values())
    for name in ("api", "reconciler", "migrate", "render", "assemble"):
        settings = services[name]["environment"]
        assert settings["BUCKET"] == "my-project-momalisa"
        assert settings["SIGNED_URLS"] == "on"
        assert settings["PUBLIC_URL"] == f"https://{DOMAIN}"
        assert settings["BLOCKLIST"] == "/it$$s", "as written, with Compose's own escape"
        assert settings.keys().isdisjoint({"BUCKET_ENDPOINT", "BUCKET_PUBLIC_URL"})
        assert "bucket" not in services[name]["depends_on"]
    assert [(port["host_ip"], port["published"]) for port in services["nginx"]["ports"]] == [("127.0.0.1", "8080")]
    assert described(instance, "gpu")["render-gpu"]["image"] == f"{place}/momalisa-worker:v1"
    everything = described(instance, "gpu --profile monitoring")
    assert {"prometheus", "grafana"} < everything.keys()
    assert everything["alertmanager"]["environment"] == {"ALERT_SLACK_URL": "https://hooks.example/T0/x"}
    mounted = {
        volume["source"]
        for service in everything.values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    }
    instance.sh("; ".join(f"test -e {path}" for path in mounted))
    modes = instance.sh(
        "cd /srv/momalisa/app; stat --format '%U %a' . compose.env compose.instance.yml /root/.docker/config.json"
    )
    assert modes.splitlines() == ["root 700", *["root 600"] * 3]

    assert instance.play(*call).changed == 0
    assert instance.play(call[0], cluster_state="absent", confirm=PROJECT).changed == 0  # none runs here


def test_docker_fetches_images_as_the_service_account_of_the_instance(instance: Instance) -> None:
    """The credential helper, with a metadata server that tells what it was asked."""
    body = """'{"access_token": "token of ' + self.path + ' ' + str(self.headers["Metadata-Flavor"]) + '"}'"""
    instance.serve(8099, body)
    answer = instance.sh(
        "echo us-central1-docker.pkg.dev | GCE_METADATA_HOST=127.0.0.1:8099 docker-credential-instance get"
    )
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    assert json.loads(answer) == {"Username": "oauth2accesstoken", "Secret": f"token of {path} Google"}
    assert "instance" in instance.sh("cat /root/.docker/config.json")


def test_web_server_answers_http_without_a_domain_then_gets_a_certificate_and_renews_it(
    instance: Instance, tmp_path: Path
) -> None:
    containers = 'f"{self.command} {self.path}\\n{self.headers}"'
    instance.serve(8080, containers)
    instance.play("deploy-setup-webserver.yml", domain="", acme_email="")
    address = instance.sh("hostname -i").strip()
    passed_on = instance.sh(f"curl --silent --header 'X-Forwarded-For: 203.0.113.9' http://{address}/")
    assert f"Host: {address}\n" in passed_on, "http://<external_ip>"
    assert "X-Forwarded-Proto: http\n" in passed_on
    assert "203.0.113.9" not in passed_on, "an address that a visitor claims"

    instance.sh("systemctl stop served-8080")  # as an upgrade does, while it replaces the NGINX in the container
    waiting = [
        subprocess.Popen(
            ["docker", "exec", instance.name, "curl", "--silent", *options, f"http://{address}/walks?a=b"],
            env={**os.environ, **instance.docker.variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        for options in ([], ["--data", "from=a+giraffe"])
    ]
    refused = "grep --count refused /var/log/nginx/error.log || true"
    until(lambda: int(instance.sh(refused)) == len(waiting))
    instance.serve(8080, containers)
    answers = [request.communicate(timeout=30)[0].splitlines()[0] for request in waiting]
    assert answers == ["GET /walks?a=b", "POST /walks?a=b"]

    authority, chain = certificates(tmp_path, "localhost")
    configuration = {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/srv/chain.pem",
        "privateKey": "/srv/chain.pem",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": configuration}))
    for file in (chain, tmp_path / "pebble.json"):
        instance.docker("cp", str(file), f"{instance.name}:/srv/{file.name}")
    instance.docker("cp", str(authority), f"{instance.name}:/usr/local/share/ca-certificates/acme.crt")
    instance.sh("update-ca-certificates")
    instance.sh(
        "systemd-run --quiet --setenv=PEBBLE_VA_NOSLEEP=1 pebble -config /srv/pebble.json;"
        "curl --silent --retry 20 --retry-connrefused --output /dev/null https://localhost:14000/dir"
    )
    instance.play("deploy-setup-webserver.yml")
    instance.sh("curl --silent --insecure https://localhost:15000/roots/0 > /srv/roots.pem")
    get = f"curl --silent --show-error --cacert /srv/roots.pem --header 'X-Forwarded-For: 203.0.113.9' https://{DOMAIN}/"
    passed_on = instance.sh(get)
    assert "X-Forwarded-For: 127.0.0.1" in passed_on
    assert "X-Forwarded-Proto: https" in passed_on
    assert "203.0.113.9" not in passed_on, "an address that a visitor claims"
    assert f"Host: {DOMAIN}" in passed_on
    led = instance.sh(
        f"curl --silent --output /dev/null --write-out '%{{http_code}} %{{redirect_url}}' http://{DOMAIN}/x?y"
    )
    assert led == f"301 https://{DOMAIN}/x?y"
    other = f"curl --silent --insecure --output /dev/null --write-out '%{{http_code}}' --header 'Host: other' https://{DOMAIN}/"
    assert instance.sh(other) == "421"
    assert instance.sh("systemctl is-active certbot.timer nginx") == "active\nactive\n"

    assert instance.play("deploy-setup-webserver.yml").changed == 0

    serial = (
        f"curl --silent --insecure --write-out '%{{certs}}' --output /dev/null https://{DOMAIN}/ | grep '^Serial'"
    )
    before = instance.sh(serial)
    instance.sh("certbot renew --quiet --force-renewal --no-random-sleep-on-renew")
    until(lambda: instance.sh(serial) != before)  # NGINX shows the certificate that was renewed

    instance.play("deploy-setup-webserver.yml", cluster_state="absent", confirm=PROJECT)
    # NGINX closes its sockets soon after it is asked to reload.
    instance.sh("timeout 30 sh -c 'while curl --silent --output /dev/null http://127.0.0.1/; do sleep 0.1; done'")
