"""The playbooks, run twice each: those that talk to Google, against its APIs in memory."""

import copy
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from momalisa.settings import ROOT
from tests.infra.google import Google, Request, environment, listening

FOLDER = ROOT / "infra" / "ansible"
BIN = ROOT / ".venv" / "bin"
PROJECT = "my-project"
ZONE = f"projects/{PROJECT}/zones/us-central1-a"
MEMBER = f"serviceAccount:momalisa@{PROJECT}.iam.gserviceaccount.com"

IMAGES = f"artifactregistry/projects/{PROJECT}/locations/us-central1/repositories/momalisa"
OTHERS = {"role": "roles/artifactregistry.reader", "members": ["user:ann@example.org"]}
FIREWALLS = f"compute/projects/{PROJECT}/global/firewalls"
INSTANCE = f"compute/{ZONE}/instances/momalisa"

Play = Callable[..., "Played"]


class Played:
    """What a run of ansible-playbook said."""

    def __init__(self, run: subprocess.CompletedProcess[str]) -> None:
        self.code = run.returncode
        self.output = run.stdout + run.stderr
        self.changed = sum(int(number) for number in re.findall(r"\bchanged=(\d+)", run.stdout))


def run(google: Google, home: Path, name: str, *arguments: str, fails: bool = False, **variables: Any) -> Played:
    """Run a playbook against the APIs in memory."""
    usual = {"version": "v1", "ssh_key": str(home / "key")}
    extra = [f"--extra-vars={key}={value}" for key, value in {**usual, **variables}.items()]
    played = Played(
        subprocess.run(
            [BIN / "ansible-playbook", name, *extra, *arguments],
            cwd=FOLDER,
            env=environment(google, GOOGLE_CLOUD_PROJECT=PROJECT, ANSIBLE_NOCOLOR="1", HOME=str(home)),
            capture_output=True,
            text=True,
            check=False,
        )
    )
    assert (played.code != 0) == fails, played.output
    return played


@pytest.fixture
def play(google: Google, tmp_path: Path) -> Play:
    """Run a playbook against the APIs of this test."""
    return partial(run, google, tmp_path)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    """The APIs after the VM was created; a policy that somebody else made was there before."""
    folder = tmp_path_factory.mktemp("first")
    with listening(folder) as google:
        google.policies[IMAGES] = {"bindings": [OTHERS], "etag": "theirs"}
        assert "203.0.113.7" in run(google, folder, "deploy-create-instance.yml").output
        yield google


@pytest.fixture
def created(first_run: Google, google: Google) -> Google:
    """APIs of this test's own, in which the VM was created."""
    google.resources = copy.deepcopy(first_run.resources)
    google.policies = copy.deepcopy(first_run.policies)
    return google


def roles(policy: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return who has which role."""
    return [(binding["role"], binding["members"]) for binding in policy["bindings"]]


def again_changes_nothing(google: Google, play: Play, *call: str, **variables: Any) -> None:
    """Run a playbook once more, and see that it neither says nor asks for a change."""
    google.requests.clear()
    assert play(*call, **variables).changed == 0
    assert google.requests
    assert google.changes == []


def test_playbooks_pass_ansible_lint() -> None:
    run = subprocess.run(
        [BIN / "ansible-lint", "--offline", "--profile", "production", "--nocolor"],
        cwd=FOLDER,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_instance_is_created_from_the_inventory(first_run: Google) -> None:
    assert first_run.sent("POST", "/services:batchEnable")["serviceIds"] == [
        "compute.googleapis.com",
        "iam.googleapis.com",
        "iamcredentials.googleapis.com",
        "iap.googleapis.com",
        "storage.googleapis.com",
    ]
    rules = [first_run.resources[f"{FIREWALLS}/momalisa-{name}"] for name in ("web", "ssh")]
    assert [(rule["sourceRanges"], rule["allowed"], rule["targetTags"]) for rule in rules] == [
        (["0.0.0.0/0"], [{"IPProtocol": "tcp", "ports": ["80", "443"]}], ["momalisa"]),
        (["35.235.240.0/20"], [{"IPProtocol": "tcp", "ports": ["22"]}], ["momalisa"]),
    ]
    assert first_run.sent("POST", "/subnetworks")["network"] == f"projects/{PROJECT}/global/networks/momalisa"
    assert first_run.sent("POST", "/storage/v1/b") == {
        "name": f"{PROJECT}-momalisa",
        "location": "US-CENTRAL1",
        "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}, "publicAccessPrevention": "enforced"},
    }
    instance = first_run.sent("POST", "/instances")
    assert instance["machineType"] == f"{ZONE}/machineTypes/e2-standard-4"
    assert [disk["autoDelete"] for disk in instance["disks"]] == [True, False]
    assert instance["disks"][1]["source"] == f"{ZONE}/disks/momalisa-data"
    assert instance["networkInterfaces"][0]["accessConfigs"][0]["natIP"] == "203.0.113.7"
    assert instance["serviceAccounts"][0]["email"] == f"momalisa@{PROJECT}.iam.gserviceaccount.com"
    assert instance["tags"] == {"items": ["momalisa"]}
    metadata = {item["key"]: item["value"] for item in instance["metadata"]["items"]}
    assert metadata["ssh-keys"].startswith("momalisa:ssh-ed25519 ")
    assert metadata["block-project-ssh-keys"] == "TRUE"
    assert instance["shieldedInstanceConfig"]["enableSecureBoot"] is True
    assert instance["scheduling"] == {
        "provisioningModel": "STANDARD",
        "automaticRestart": True,
        "onHostMaintenance": "MIGRATE",
    }


def test_service_account_may_do_what_it_must_and_no_more(first_run: Google) -> None:
    account = f"iam/projects/{PROJECT}/serviceAccounts/momalisa@{PROJECT}.iam.gserviceaccount.com"
    policies = first_run.policies
    assert policies.keys() == {f"storage/b/{PROJECT}-momalisa", account, IMAGES}
    assert roles(policies[f"storage/b/{PROJECT}-momalisa"]) == [("roles/storage.objectUser", [MEMBER])]
    assert roles(policies[account]) == [("roles/iam.serviceAccountTokenCreator", [MEMBER])]
    assert policies[IMAGES]["bindings"] == [OTHERS, {**OTHERS, "members": [MEMBER]}]
    assert policies[IMAGES]["etag"] == "theirs", "else what others change meanwhile would be lost"


def test_creating_an_instance_again_changes_nothing(created: Google, play: Play, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "momalisa", "-f", tmp_path / "key"], check=True
    )
    again_changes_nothing(created, play, "deploy-create-instance.yml")


def test_instance_with_a_gpu_is_as_such_machines_must_be(created: Google, play: Play) -> None:
    del created.resources[INSTANCE]
    play("deploy-create-instance.yml", "--start-at-task=Make a key for SSH", gpu="true", spot="true")
    instance = created.sent("POST", "/instances")
    assert instance["machineType"] == f"{ZONE}/machineTypes/g2-standard-8"
    assert instance["shieldedInstanceConfig"]["enableSecureBoot"] is False
    assert instance["scheduling"] == {
        "provisioningModel": "SPOT",
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
    }


def test_rules_are_mended_and_a_stopped_instance_is_started_and_both_waited_for(
    created: Google, play: Play
) -> None:
    rule, instance = created.resources[f"{FIREWALLS}/momalisa-ssh"], created.resources[INSTANCE]
    rule["sourceRanges"] = ["0.0.0.0/0"]
    instance["status"] = "TERMINATED"

    def in_a_while(request: Request) -> tuple[int, dict[str, Any]] | None:
        if request not in created.changes:
            return None
        path = f"compute/v1/projects/{PROJECT}/global/operations/slow-{request.method}"
        return 200, {"status": "PENDING", "name": "slow", "selfLink": f"https://compute.googleapis.com/{path}"}

    created.overrides.append(in_a_while)
    play("deploy-create-instance.yml")
    assert [str(request).rpartition("/")[2] for request in created.changes] == ["momalisa-ssh", "start"]
    assert created.sent("PATCH", "/momalisa-ssh")["sourceRanges"] == ["35.235.240.0/20"]
    polled = [request.path.rpartition("/")[2] for request in created.requests if "/operations/" in request.path]
    assert polled == ["slow-PATCH", "slow-POST"]


def test_operation_that_fails_stops_the_playbook(google: Google, play: Play) -> None:
    def fail(request: Request) -> tuple[int, dict[str, Any]] | None:
        if request.method == "POST" and request.path.endswith("/networks"):
            return 200, {
                "name": "operation-1",
                "status": "RUNNING",
                "selfLink": f"https://compute.googleapis.com/compute/v1/projects/{PROJECT}/global/operations/1",
            }
        if request.path.endswith("/operations/1"):
            return 200, {
                "status": "DONE",
                "error": {"errors": [{"code": "QUOTA_EXCEEDED", "message": "no more networks"}]},
            }
        return None

    google.overrides.append(fail)
    assert "no more networks" in play("deploy-create-instance.yml", fails=True).output
    assert not any(name.endswith("/subnetworks/momalisa") for name in google.resources)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"project_id": ""}, "Name the project"),
        ({"version": "v1-dirty"}, "commit all changes"),
    ],
)
def test_playbooks_say_what_is_missing(google: Google, play: Play, variables: dict[str, str], reason: str) -> None:
    assert reason in " ".join(play("deploy-create-instance.yml", fails=True, **variables).output.split())
    assert google.requests == []


def test_model_is_deployed_to_a_dedicated_endpoint_and_replaced_without_a_gap(google: Google, play: Play) -> None:
    call = (
        "deploy-vertex.yml",
        "--skip-tags=images",
        "--extra-vars",
        '{"settings": {"BATCH_SIZE": 16, "ANONYMOUS": "off"}}',
    )
    place = f"projects/{PROJECT}/locations/us-central1"
    shown = play(*call).output
    assert f"VERTEX_ENDPOINT: {place}/endpoints/momalisa" in shown
    assert "VERTEX_URL: https://momalisa." in shown
    assert google.sent("POST", "/models:upload") == {
        "modelId": "momalisa-v1",
        "model": {
            "displayName": "momalisa",
            "description": "MoMALisa v1",
            "containerSpec": {
                "imageUri": f"us-central1-docker.pkg.dev/{PROJECT}/momalisa/momalisa-vertex:v1",
                "ports": [{"containerPort": 8080}],
                "healthRoute": "/health",
                "predictRoute": "/predict",
                "env": [{"name": "BUCKET", "value": f"{PROJECT}-momalisa"}, {"name": "BATCH_SIZE", "value": "16"}],
            },
        },
    }
    assert google.sent("POST", "/endpoints") == {"displayName": "momalisa", "dedicatedEndpointEnabled": True}
    deployment = google.sent("POST", "/endpoints/momalisa:deployModel")
    assert deployment["trafficSplit"] == {"0": 100}
    assert deployment["deployedModel"] == {
        "displayName": "momalisa",
        "model": f"{place}/models/momalisa-v1",
        "serviceAccount": f"momalisa@{PROJECT}.iam.gserviceaccount.com",
        "dedicatedResources": {
            "minReplicaCount": 1,
            "maxReplicaCount": 2,
            "machineSpec": {
                "machineType": "g2-standard-8",
                "acceleratorType": "NVIDIA_L4",
                "acceleratorCount": 1,
            },
        },
    }
    assert roles(google.policies[f"cloudresourcemanager/projects/{PROJECT}"]) == [
        ("roles/aiplatform.user", [MEMBER])
    ]
    again_changes_nothing(google, play, *call)

    play(*call, "--start-at-task=Read what is deployed", vertex_max_replicas=5)
    change = google.sent("POST", "/endpoints/momalisa:mutateDeployedModel")
    assert change["deployedModel"]["id"] == "1"
    assert change["deployedModel"]["dedicatedResources"]["maxReplicaCount"] == 5

    google.requests.clear()
    play(*call, "--start-at-task=Register the model", version="v2")
    asked = [str(request).rpartition(":")[2] for request in google.changes if ":" in request.path]
    assert asked == ["upload", "deployModel", "undeployModel"]
    assert google.changes[-1].body == {"deployedModelId": "1"}


def test_destroying_asks_first_and_keeps_data_unless_told_otherwise(
    created: Google, play: Play, tmp_path: Path
) -> None:
    place = f"projects/{PROJECT}/locations/us-central1"
    created.put("artifactregistry", f"{place}/repositories/momalisa", {})
    created.put(
        "aiplatform", f"{place}/endpoints/momalisa", {"deployedModels": [{"id": "7", "model": "models/old"}]}
    )
    assert f"confirm={PROJECT}" in play("destroy.yml", fails=True, confirm="yes").output
    assert created.requests == []

    assert play("destroy.yml", confirm=PROJECT).changed == len(created.changes) == 9
    assert created.sent("POST", "/endpoints/momalisa:undeployModel") == {"deployedModelId": "7"}
    disk, bucket = f"compute/{ZONE}/disks/momalisa-data", f"storage/b/{PROJECT}-momalisa"
    images = f"artifactregistry/{place}/repositories/momalisa"
    assert {name for name in created.resources if not name.startswith("serviceusage/")} == {disk, bucket, images}

    created.requests.clear()
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    gcloud.chmod(0o755)
    created.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    play("destroy.yml", confirm=PROJECT, delete_data="true")
    assert [str(request) for request in created.changes] == [
        f"DELETE compute.googleapis.com/compute/v1/{ZONE}/disks/momalisa-data",
        f"DELETE artifactregistry.googleapis.com/v1/{place}/repositories/momalisa",
    ]
    assert (tmp_path / "calls").read_text() == f"storage rm --recursive gs://{PROJECT}-momalisa\n"
