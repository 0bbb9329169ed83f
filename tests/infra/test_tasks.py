"""Files of tasks that several playbooks share, each run alone, with Google and Kubernetes in memory."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from momalisa.settings import ROOT
from tests.infra import cluster as kubernetes
from tests.infra.cluster import Cluster
from tests.infra.google import Google, Request, environment

ANSIBLE = ROOT / "infra" / "ansible"
BIN = ROOT / ".venv" / "bin"
TOOLS = ROOT / ".venv" / "kubernetes-tools"
PROJECT = "art-project"
SUBNET = f"compute/projects/{PROJECT}/regions/us-central1/subnetworks"
MINE = "serviceAccount:momalisa-cluster@art-project.iam.gserviceaccount.com"

Answer = tuple[int, dict[str, Any]]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """An empty cluster."""
    with kubernetes.listening() as running:
        yield running


def run(google: Google, home: Path, tasks: list[dict[str, Any]], **more: str) -> tuple[int, str]:
    """Run tasks with the variables of the cluster; return the status and what was printed."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ANSIBLE / "vars" / "cluster.yml")],
        "vars": {"poll_seconds": 0, "version": "1a2b3c", "deployment_folder": str(home)},
        "tasks": tasks,
    }
    (home / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    played = subprocess.run(
        [BIN / "ansible-playbook", home / "play.yml", "--inventory", ANSIBLE / "inventory.yml"],
        cwd=home,
        env=environment(
            google,
            GOOGLE_CLOUD_PROJECT=PROJECT,
            HOME=str(home),
            PATH=f"{ROOT / 'tests' / 'infra'}:{TOOLS / 'kubectl'}:{BIN}:{os.environ['PATH']}",
            HELM=str(TOOLS / "helm" / "helm"),
            HELM_CALLS=str(home / "helm.json"),
            ANSIBLE_NOCOLOR="1",
            ANSIBLE_LOCALHOST_WARNING="0",
            K8S_AUTH_NO_PROXY="127.0.0.1",
            **more,
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    return played.returncode, played.stdout + played.stderr


def include(name: str, **variables: Any) -> dict[str, Any]:
    """Return a task that includes a file."""
    return {
        "name": name,
        "ansible.builtin.include_tasks": str(ANSIBLE / "tasks" / f"{name}.yml"),
        "vars": variables,
    }


def resource(kind: str, **more: Any) -> dict[str, Any]:
    """Return the task that makes one of what vars/cluster.yml has in lists."""
    return include("resource", resource=f"{{{{ ({kind}) | combine({more}) }}}}")


@pytest.mark.parametrize("state", ["PROVISIONING", "STOPPING"])
def test_what_another_run_began_is_waited_for(google: Google, tmp_path: Path, state: str) -> None:
    name = f"container/projects/{PROJECT}/locations/us-central1/clusters/momalisa"
    limits: dict[str, Any] = {"autoscaling": {"resourceLimits": [], "autoprovisioningLocations": []}}
    google.resources[name] = {"name": "momalisa", "status": state, **limits}
    polls = 0

    def meanwhile(request: Request) -> Answer | None:
        nonlocal polls
        polls += request.method == "GET" and request.path.endswith("/clusters/momalisa")
        if polls == 3 and state == "STOPPING":
            google.resources.pop(name, None)
        elif polls == 3:
            google.resources[name]["status"] = "RUNNING"
        return None

    google.overrides.append(meanwhile)
    code, said = run(google, tmp_path, [resource("clusters[0]", keep={"autoscaling": {}})])
    assert code == 0, said
    assert polls == 3, "it looks until the cluster runs, or is gone"
    assert [each.method for each in google.changes] == (["POST"] if state == "STOPPING" else [])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (409, "Operation failed because another operation was already in progress."),
        (400, "The resource 'projects/art-project/global/networks/momalisa-cluster' is not ready"),
    ],
)
def test_a_change_waits_for_the_operation_of_another_run(
    google: Google, tmp_path: Path, status: int, message: str
) -> None:
    refusals = 2

    def busy(request: Request) -> Answer | None:
        nonlocal refusals
        if request.method != "POST" or not refusals:
            return None
        refusals -= 1
        return status, {"error": {"code": status, "message": message}}

    google.overrides.append(busy)
    code, said = run(google, tmp_path, [resource("foundations[1]")])
    assert code == 0, said
    assert len(google.changes) == 3
    assert f"{SUBNET}/momalisa-cluster" in google.resources


def test_what_another_run_makes_at_the_same_moment_is_taken(google: Google, tmp_path: Path) -> None:
    def quicker(request: Request) -> Answer | None:
        if request.method == "POST":
            google.put("compute", f"{SUBNET.removeprefix('compute/')}/momalisa-cluster", {})
        return None

    google.overrides.append(quicker)
    code, said = run(google, tmp_path, [resource("foundations[1]")])
    assert code == 0, said
    assert len(google.changes) == 1


def test_a_refusal_is_an_error(google: Google, tmp_path: Path) -> None:
    code, said = run(google, tmp_path, [resource("foundations[1]", body={"name": "Momalisa"})])
    assert code != 0
    assert "Invalid value at 'name'" in said
    assert len(google.changes) == 1


def test_limits_are_changed_when_they_are_others(google: Google, tmp_path: Path) -> None:
    """Those of nodes with a GPU, those of CPU nodes, and the size of PostgreSQL."""
    tasks = [resource("clusters[0]"), resource("clusters[1]"), resource("stores[0]")]
    assert run(google, tmp_path, tasks)[0] == 0
    google.requests.clear()
    play = [
        {"ansible.builtin.set_fact": {"gpu_nodes_max": 2, "cpu_nodes_max": 3, "database_tier": "db-custom-2-7680"}}
    ]
    code, said = run(google, tmp_path, [*play, *tasks])
    assert code == 0, said
    assert [each.method for each in google.changes] == ["PUT", "POST", "PATCH"]
    nodes = google.resources[f"container/projects/{PROJECT}/locations/us-central1/clusters/momalisa/nodePools/cpu"]
    assert nodes["autoscaling"]["totalMaxNodeCount"] == 3
    database = google.resources[f"sqladmin/projects/{PROJECT}/instances/momalisa"]["settings"]
    assert database["tier"] == "db-custom-2-7680"
    assert database["databaseFlags"] == [{"name": "max_connections", "value": "400"}]
    assert database["ipConfiguration"]["ipv4Enabled"] is False
    google.requests.clear()
    assert run(google, tmp_path, [*play, *tasks])[0] == 0
    assert google.changes == []


THEIRS = {
    "role": "roles/storage.objectUser",
    "members": [MINE, "user:ann@example.org"],
    "condition": {"title": "until summer", "expression": "request.time < timestamp('2027-06-01T00:00:00Z')"},
}


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, f"cloudresourcemanager/projects/{PROJECT}"),
        (3, f"storage/b/{PROJECT}-momalisa-cluster"),
        (5, f"iam/projects/{PROJECT}/serviceAccounts/momalisa-cluster@{PROJECT}.iam.gserviceaccount.com"),
        (8, f"secretmanager/projects/{PROJECT}/secrets/momalisa-keda-connection"),
    ],
)
def test_conditions_that_others_set_are_kept_and_so_is_what_they_change_meanwhile(
    google: Google, tmp_path: Path, number: int, name: str
) -> None:
    google.policies[name] = {"bindings": [THEIRS], "version": 3}
    late = {"role": "roles/viewer", "members": ["user:bob@example.org"]}

    def meanwhile(request: Request) -> Answer | None:
        first = sum(each.method == request.method for each in google.changes) == 1
        if request in google.changes and first:
            google.policies[name] = {"bindings": [THEIRS, late], "version": 3, "etag": "bGF0ZXI="}
        return None

    google.overrides.append(meanwhile)
    grant = (
        f"{{{{ general_grants[{number}] | combine({{'role': 'roles/storage.objectUser', 'member': '{MINE}'}}) }}}}"
    )
    code, said = run(google, tmp_path, [include("grant", grant=grant)])
    assert code == 0, said
    mine = {"role": "roles/storage.objectUser", "members": [MINE]}
    assert google.policies[name]["bindings"] == [THEIRS, late, mine]
    assert len(google.changes) == 2


@pytest.mark.parametrize("first", ["fails", "is interrupted"])
def test_a_release_that_failed_or_was_interrupted_is_installed_again(
    google: Google, cluster: Cluster, tmp_path: Path, first: str
) -> None:
    access = {"host": cluster.url, "api_key": "key"}
    task = include("release", release="{{ keda }}", release_minutes=15)
    play = [
        {"module_defaults": {"group/kubernetes.core.k8s": access, "kubernetes.core.helm": access}, "block": [task]}
    ]
    code, said = run(google, tmp_path, play, HELM_FAILS="keda")
    assert code != 0
    assert "UPGRADE FAILED" in said, said
    (secret,) = cluster.objects.values()
    if first == "is interrupted":
        release = {**json.loads(secret["data"]["release"]), "status": "pending-install"}
        secret["data"]["release"] = json.dumps(release)
        secret["metadata"]["labels"]["status"] = "pending-install"
        secret["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    code, said = run(google, tmp_path, play)
    assert code == 0, said
    (secret,) = cluster.objects.values()
    assert secret["metadata"]["labels"]["status"] == "deployed"
    calls = len(json.loads((tmp_path / "helm.json").read_text()))
    assert run(google, tmp_path, play)[0] == 0
    assert len(json.loads((tmp_path / "helm.json").read_text())) == calls == 2
