"""A real API server takes the chart's objects, by a dry run that refuses unknown fields.

It runs where there is one: KUBEBUILDER_ASSETS names a folder with `kube-apiserver` and `etcd`, as `setup-envtest
use --print path` does, or they are on the PATH. KUBERNETES_DEFINITIONS names a folder with the definitions of the
operators' kinds; without it, only those of `definitions.yaml` are known.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.conftest import until
from tests.infra.kubernetes.chart import SETS, TOOLS, Fault, Object, definitions, put, rendered

TOKEN = "test-token"  # noqa: S105


@dataclass
class Server:
    """An API server, as kubectl reaches it."""

    url: str
    authority: Path

    def kubectl(self, *arguments: str, objects: list[Object] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(TOOLS / "kubectl" / "kubectl", "--server", self.url, "--token", TOKEN),
                *("--certificate-authority", self.authority, "--kubeconfig", "/dev/null"),
                *arguments,
            ],
            input=yaml.safe_dump_all(objects or []),
            check=False,
            capture_output=True,
            text=True,
        )

    def dry_run(self, objects: list[Object]) -> tuple[list[str], list[str]]:
        """Return the objects that the server would take, and what it says of the others."""
        run = self.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--output=name"),
            *("--namespace", "momalisa", "--filename", "-"),
            objects=objects,
        )
        return run.stdout.split(), [line for line in run.stderr.splitlines() if not line.startswith("Warning:")]


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("KUBEBUILDER_ASSETS") or os.environ["PATH"])


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server on an empty etcd, with the namespace momalisa and the definitions that there are."""
    etcd, apiserver = _program("etcd"), _program("kube-apiserver")
    if not etcd or not apiserver:
        pytest.skip("There is no kube-apiserver: KUBEBUILDER_ASSETS names no folder with it and etcd.")
    folder = tmp_path_factory.mktemp("apiserver")
    key = folder / "key.pem"
    key.write_bytes(
        rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (folder / "tokens").write_text(f"{TOKEN},admin,admin,system:masters\n")
    store, peers, port = (_free_port() for _ in range(3))
    commands = (
        [
            *(etcd, f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"),
            f"--listen-client-urls=http://127.0.0.1:{store}",
            f"--advertise-client-urls=http://127.0.0.1:{store}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
        ],
        [
            *(apiserver, f"--etcd-servers=http://127.0.0.1:{store}", f"--cert-dir={folder}"),
            *("--bind-address=127.0.0.1", f"--secure-port={port}", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--token-auth-file={folder / 'tokens'}", "--authorization-mode=RBAC"),
            *("--service-account-issuer=https://localhost", f"--service-account-key-file={key}"),
            f"--service-account-signing-key-file={key}",
        ],
    )
    with (folder / "log").open("w") as log:
        running = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        try:
            made = Server(f"https://127.0.0.1:{port}", folder / "apiserver.crt")
            until(lambda: made.kubectl("get", "--raw", "/readyz").returncode == 0, seconds=90)
            _prepare(made)
            yield made
        finally:
            for each in reversed(running):
                each.terminate()
                each.wait(30)


def _prepare(server: Server) -> None:
    """Make what the objects need: the namespace, the definitions, the class of priority of one set of values."""
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    needed: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "momalisa", "labels": restricted}},
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "batch"},
            "value": 1,
        },
    ]
    given = [
        each
        for path in sorted(Path(os.environ.get("KUBERNETES_DEFINITIONS", "/nonexistent")).glob("*.yaml"))
        for each in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)
        if each and each["kind"] == "CustomResourceDefinition"
    ]
    known = {each["metadata"]["name"] for each in given}
    own = [each for each in definitions().values() if each["metadata"]["name"] not in known]
    applied = server.kubectl("apply", "--server-side", "--filename", "-", objects=[*needed, *given, *own])
    assert applied.returncode == 0, applied.stderr
    waited = server.kubectl("wait", "--for=condition=Established", "--all", "--timeout=60s", "crd")
    assert waited.returncode == 0, waited.stderr


@pytest.mark.parametrize("values", SETS)
def test_the_server_takes_all_objects_that_it_knows(
    server: Server, values: str, record_property: Callable[[str, object], None]
) -> None:
    objects = rendered(values).objects
    taken, complaints = server.dry_run(objects)
    unknown = [line for line in complaints if "no matches for kind" in line]
    record_property("taken", f"{len(taken)} of {len(objects)}")
    assert [line for line in complaints if "no matches for kind" not in line and "ensure CRDs" not in line] == []
    assert len(taken) + len(unknown) == len(objects)


@pytest.mark.parametrize("values", SETS)
def test_every_pod_is_admitted_under_the_restricted_standard(server: Server, values: str) -> None:
    manifests = rendered(values)
    accounts: list[Object] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "momalisa"}}
        for name in ("momalisa", "existing")
    ]
    assert server.kubectl("apply", "--server-side", "--filename", "-", objects=accounts).returncode == 0
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**each["spec"]["template"]["metadata"], "name": each["metadata"]["name"]},
            "spec": each["spec"]["template"]["spec"],
        }
        for each in manifests.workloads()
    ]
    taken, complaints = server.dry_run(pods)
    assert complaints == []
    assert len(taken) == len(pods)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (put("Deployment", "api", "spec.replica", 2), "field not declared in schema"),
        (put("Deployment", "api", "spec.selector.matchLabels.a", "b"), "does not match template `labels`"),
        (put("Service", "api", "spec.ports.0.port", 80_000), "must be between 1 and 65535"),
        (put("ComputeClass", "gpu", "spec.priorities.0.zones", ["a"]), "field not declared in schema"),
    ],
)
def test_the_server_refuses_what_is_wrong(server: Server, fault: Fault, complaint: str) -> None:
    manifests = rendered("gke")
    fault(manifests)
    _, complaints = server.dry_run(manifests.objects)
    assert complaint in "\n".join(complaints)
