"""The playbooks, run twice each: those that talk to Google, against its APIs in memory."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.infra.google import Google, Request, listening
from tests.infra.playbooks import BIN, FOLDER, PROJECT, Played, run

ZONE = f"projects/{PROJECT}/zones/us-central1-a"
MEMBER = f"serviceAccount:momalisa@{PROJECT}.iam.gserviceaccount.com"

IMAGES = f"artifactregistry/projects/{PROJECT}/locations/us-central1/repositories/momalisa"
FIREWALLS = f"compute/projects/{PROJECT}/global/firewalls"
INSTANCE = f"compute/{ZONE}/instances/momalisa"

Play = Callable[..., Played]


@pytest.fixture
def play(google: Google, tmp_path: Path) -> Play:
    """Run a playbook against the APIs of this test."""
    return partial(run, google, tmp_path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the user who created the VM first."""
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def first_run(home: Path) -> Iterator[Google]:
    """The APIs after the VM was created, by this playbook alone."""
    folder = home
    with listening(folder) as google:
        assert "203.0.113.7" in run(google, folder, "deploy-create-instance.yml").output
        yield google


@pytest.fixture
def created(first_run: Google, google: Google, home: Path, tmp_path: Path) -> Google:
    """APIs of this test's own, in which the VM was created, with the key that `play` has."""
    for name in ("key", "key.pub"):
        shutil.copy(home / name, tmp_path / name)
    google.resources = copy.deepcopy(first_run.resources)
    google.policies = copy.deepcopy(first_run.policies)
    google.resources[INSTANCE]["metadata"]["fingerprint"] = "Zmlyc3Q="
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
        "artifactregistry.googleapis.com",
        "cloudresourcemanager.googleapis.com",
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
    assert roles(policies[IMAGES]) == [("roles/artifactregistry.reader", [MEMBER])]


def test_creating_an_instance_again_changes_nothing(created: Google, play: Play) -> None:
    created.put("compute", f"{ZONE}/disks/momalisa", {})  # Google made it from initializeParams
    created.limits.quotas = dict.fromkeys(created.limits.quotas, 0.0)  # what is there needs no more
    again_changes_nothing(created, play, "deploy-create-instance.yml")


def test_instance_with_a_gpu_is_as_such_machines_must_be(created: Google, play: Play, tmp_path: Path) -> None:
    """It is also a second one, with another host key than the first."""
    del created.resources[INSTANCE]
    public_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHKAnwKTJzHFjyBBFkbVNZo5jPLTQZEfyDHLCmpXJ7d9"
    (tmp_path / "key.hosts").write_text(f"other {public_key}\nmomalisa {public_key}\n")
    play("deploy-create-instance.yml", "--start-at-task=Make a key for SSH", gpu="true", spot="true")
    assert (tmp_path / "key.hosts").read_text() == f"other {public_key}\n"
    instance = created.sent("POST", "/instances")
    assert instance["machineType"] == f"{ZONE}/machineTypes/g2-standard-8"
    assert instance["shieldedInstanceConfig"]["enableSecureBoot"] is False
    assert instance["scheduling"] == {
        "provisioningModel": "SPOT",
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
    }


def test_rules_are_mended_another_key_is_added_a_stopped_instance_is_started_and_all_waited_for(
    created: Google, play: Play, tmp_path: Path
) -> None:
    (tmp_path / "key").unlink()  # as on the laptop of someone else
    rule, instance = created.resources[f"{FIREWALLS}/momalisa-ssh"], created.resources[INSTANCE]
    rule["sourceRanges"] = ["0.0.0.0/0"]
    instance["status"] = "TERMINATED"

    def in_a_while(request: Request) -> tuple[int, dict[str, Any]] | None:
        if request not in created.changes or not request.host.startswith("compute."):
            return None
        path = f"compute/v1/projects/{PROJECT}/global/operations/slow-{request.path.rpartition('/')[2].lower()}"
        return 200, {"status": "PENDING", "name": "slow", "selfLink": f"https://compute.googleapis.com/{path}"}

    created.overrides.append(in_a_while)
    play("deploy-create-instance.yml")
    asked = [str(request).rpartition("/")[2] for request in created.changes]
    assert asked == ["momalisa-ssh", "setMetadata", "start"]
    assert created.sent("PATCH", "/momalisa-ssh")["sourceRanges"] == ["35.235.240.0/20"]
    polled = [request.path.rpartition("/")[2] for request in created.requests if "/operations/" in request.path]
    assert polled == [f"slow-{name.lower()}" for name in asked]
    sent = created.sent("POST", "/setMetadata")
    assert sent["fingerprint"] == "Zmlyc3Q="
    before = {item["key"]: item["value"] for item in instance["metadata"]["items"]}
    after = {item["key"]: item["value"] for item in sent["items"]}
    first, added = after["ssh-keys"].split("\n")
    assert {**after, "ssh-keys": first} == before
    assert added == "momalisa:" + " ".join((tmp_path / "key.pub").read_text().split()[:2])


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
    """On a fresh project, where Google's services are not ready at once."""
    call = (
        "deploy-vertex.yml",
        "--skip-tags=images",
        "--extra-vars",
        '{"settings": {"BATCH_SIZE": 16, "DENSE_REVISIONS": "abc,def", "ANONYMOUS": "off"}, "poll_seconds": 0}',
    )
    place = f"projects/{PROJECT}/locations/us-central1"
    unready = {
        ":testIamPermissions": (403, {"details": [{"reason": "SERVICE_DISABLED"}]}),
        ":deployModel": (400, {"message": "Service agents are being provisioned (https://…)."}),
        ":upload": (400, {"message": "Service agents are being provisioned (https://…)."}),
    }

    def first(request: Request) -> tuple[int, dict[str, Any]] | None:
        status, error = unready.pop(request.path[request.path.rfind(":") :], (200, {}))
        return (status, {"error": error}) if error else None

    google.overrides.append(first)
    shown = play(*call).output
    assert unready == {}
    assert f"VERTEX_ENDPOINT: {place}/endpoints/momalisa" in shown
    assert "VERTEX_URL: https://momalisa." in shown
    assert "cloudresourcemanager.googleapis.com" in google.sent("POST", "/services:batchEnable")["serviceIds"]
    assert f"storage/b/{PROJECT}-momalisa" in google.resources
    account = f"momalisa@{PROJECT}.iam.gserviceaccount.com"
    assert f"iam/projects/{PROJECT}/serviceAccounts/{account}" in google.resources
    uploaded = [request.body for request in google.requests if request.path.endswith("/models:upload")]
    assert uploaded[0] == uploaded[1]
    model_id = uploaded[0]["modelId"]
    assert re.fullmatch("momalisa-v1-[0-9a-f]{8}", model_id)
    assert uploaded[0]["model"] == {
        "displayName": "momalisa",
        "description": "MoMALisa v1",
        "containerSpec": {
            "imageUri": f"us-central1-docker.pkg.dev/{PROJECT}/momalisa/momalisa-vertex:v1",
            "ports": [{"containerPort": 8080}],
            "healthRoute": "/health",
            "predictRoute": "/predict",
            "env": [
                {"name": "BUCKET", "value": f"{PROJECT}-momalisa"},
                {"name": "SIGNED_URLS", "value": "on"},
                {"name": "BATCH_SIZE", "value": "16"},
                {"name": "DENSE_REVISIONS", "value": "abc,def"},
            ],
        },
    }
    assert google.sent("POST", "/endpoints") == {
        "displayName": "momalisa",
        "dedicatedEndpointEnabled": True,
        "clientConnectionConfig": {"inferenceTimeout": "3600s"},
    }
    deployment = next(request.body for request in google.requests if request.path.endswith(":deployModel"))
    assert deployment["trafficSplit"] == {"0": 100}
    assert deployment["deployedModel"] == {
        "displayName": "momalisa",
        "model": f"{place}/models/{model_id}",
        "serviceAccount": account,
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

    del google.resources[f"aiplatform/{place}/endpoints/momalisa"]["clientConnectionConfig"]
    play(*call, "--start-at-task=Read what is deployed", vertex_max_replicas=5)
    assert google.sent("PATCH", "/endpoints/momalisa") == {"clientConnectionConfig": {"inferenceTimeout": "3600s"}}
    change = google.sent("POST", "/endpoints/momalisa:mutateDeployedModel")
    assert change["deployedModel"]["id"] == "1"
    assert change["deployedModel"]["dedicatedResources"]["maxReplicaCount"] == 5

    google.requests.clear()
    play(*call, "--start-at-task=Register the model", version="v2")
    asked = [str(request).rpartition(":")[2] for request in google.changes if ":" in request.path]
    assert asked == ["upload", "deployModel", "undeployModel"]
    assert google.changes[-1].body == {"deployedModelId": "1"}


def test_model_on_vertex_serves_the_workers_of_a_cluster(google: Google, play: Play) -> None:
    """With the account and the bucket of the cluster, and another environment, so another model."""
    place = f"projects/{PROJECT}/locations/us-central1"
    google.put("artifactregistry", f"{place}/repositories/momalisa", {})
    account, bucket = f"momalisa-cluster@{PROJECT}.iam.gserviceaccount.com", f"{PROJECT}-momalisa-cluster"
    google.put("iam", f"projects/{PROJECT}/serviceAccounts/{account}", {})
    google.put("storage", f"b/{bucket}", {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}})
    start = "--start-at-task=Make the account and the bucket"
    play("deploy-vertex.yml", start, vertex_account=account, vertex_bucket=bucket)
    model = google.sent("POST", "/models:upload")["model"]
    assert model["containerSpec"]["env"][0] == {"name": "BUCKET", "value": bucket}
    assert google.sent("POST", ":deployModel")["deployedModel"]["serviceAccount"] == account
    assert roles(google.policies[f"storage/b/{bucket}"]) == [
        ("roles/storage.objectUser", [f"serviceAccount:{account}"])
    ]
    assert not any("/serviceAccounts/momalisa@" in name for name in google.resources)


def test_destroying_asks_first_and_keeps_data_unless_told_otherwise(
    created: Google, play: Play, tmp_path: Path
) -> None:
    place = f"projects/{PROJECT}/locations/us-central1"
    created.put(
        "aiplatform", f"{place}/endpoints/momalisa", {"deployedModels": [{"id": "7", "model": "models/old"}]}
    )
    created.put("aiplatform", f"{place}/models/old", {"displayName": "momalisa"})
    assert f"confirm={PROJECT}" in play("destroy.yml", fails=True, confirm="yes").output
    assert created.requests == []

    assert play("destroy.yml", confirm=PROJECT).changed == len(created.changes) == 10
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


def test_cluster_state_absent_removes_what_a_playbook_made(created: Google, play: Play, tmp_path: Path) -> None:
    (tmp_path / "key.hosts").touch()
    assert f"confirm={PROJECT}" in play("site.yml", fails=True, cluster_state="absent").output
    assert "present or absent, not gone" in play("deploy-vertex.yml", fails=True, cluster_state="gone").output
    assert created.requests == []
    play("site.yml", cluster_state="absent", confirm=PROJECT)  # without a word to the VM, which is gone
    assert INSTANCE not in created.resources
    assert f"compute/{ZONE}/disks/momalisa-data" in created.resources
    created.requests.clear()
    assert play("site.yml", cluster_state="absent", confirm=PROJECT).changed == 0
    assert created.changes == []


@pytest.mark.parametrize("fresh", [True, False])
def test_preflight_says_all_that_is_lacking_at_once(google: Google, play: Play, fresh: bool) -> None:
    """By default for the VM; on a fresh project, whose APIs the caller may not enable either."""
    google.limits.forbidden = {"compute.instances.create", "iap.tunnelInstances.accessViaIAP"}
    google.limits.quotas |= {"GPUS_ALL_REGIONS": 0.0, "NVIDIA_L4_GPUS": 0.0, "SSD_TOTAL_GB": 100.0, "CPUS": 12.0}
    google.limits.quotas["PREEMPTIBLE_NVIDIA_L4_GPUS"] = 0.0
    google.limits.usage.update({"CPUS": 8})
    if fresh:
        google.overrides.append(
            lambda request: (
                (403, {"error": {"message": "Permission denied to enable service"}})
                if request.path.endswith(":batchEnable")
                else None
            )
        )
    said = " ".join(play("preflight.yml", fails=True, gpu="true", spot="true").output.split())
    lacks = [
        "may not use compute.instances.create. Ask an owner of the project for roles/compute.admin: "
        f"gcloud projects add-iam-policy-binding {PROJECT}",
        "may not use iap.tunnelInstances.accessViaIAP",
        "Of SSD_TOTAL_GB in us-central1, 130 are needed, and 100 of 100 are free. Ask for 130 at https://console",
        "Of CPUS in us-central1, 8 are needed, and 4 of 12 are free. Ask for 16",
        "Of GPUS_ALL_REGIONS in all regions, 1 are needed, and 0 of 0 are free. Ask for 1",
        "Of PREEMPTIBLE_NVIDIA_L4_GPUS in us-central1, 1 are needed, and 0 of 0 are free.",
        *(["APIs cannot be enabled: Permission denied to enable service"] if fresh else []),
    ]
    assert [lack for lack in lacks if lack not in said] == []
    assert said.count(" are needed") == 4
    made = [str(request) for request in google.changes if not request.path.endswith(":batchEnable")]
    assert made == []


def test_preflight_of_the_cluster_and_of_vertex_asks_for_gpus_that_walks_would_wait_for(
    google: Google, play: Play
) -> None:
    google.limits.quotas["GPUS_ALL_REGIONS"] = 0.0
    google.limits.vertex_gpus = 1
    google.limits.forbidden = {"certificatemanager.certs.create"}
    google.limits.quotas["SSD_TOTAL_GB"] = 299.0
    del google.limits.machines["e2-standard-4"]
    said = " ".join(
        play("preflight.yml", fails=True, deployments="cluster,vertex", domain="a.example").output.split()
    )
    lacks = [
        "There is no e2-standard-4 in us-central1-a. Set `zone` to one of: gcloud compute machine-types list",
        "Of GPUS_ALL_REGIONS in all regions, 1 are needed",
        "/custom_model_serving_nvidia_l4_gpus in us-central1, 2 are needed, and the limit is 1.",
        "Of SSD_TOTAL_GB in us-central1, 300 are needed",
        "You may not use certificatemanager.certs.create. "
        "Ask an owner of the project for roles/certificatemanager.editor",
    ]
    assert [lack for lack in lacks if lack not in said] == []
    assert said.count(" are needed") == 3
    google.limits.quotas["SSD_TOTAL_GB"] = 300.0
    google.limits.quotas["GPUS_ALL_REGIONS"] = 1.0
    google.limits.usage["GPUS_ALL_REGIONS"] = 1  # the cluster's own
    google.limits.machines["e2-standard-4"] = {"guestCpus": 4}
    assert "has what is needed for: cluster" in play("preflight.yml", deployments="cluster").output


def test_version_follows_what_is_in_the_images(tmp_path: Path) -> None:
    script = tmp_path / "infra" / "ansible" / "version.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(FOLDER / "version.sh", script)
    (tmp_path / ".gitignore").write_text("*.safetensors\n")
    (tmp_path / "models").mkdir()

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def version() -> str:
        return subprocess.run([script], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=All")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert version() == commit
    weights = tmp_path / "models" / "other" / "unet weights.safetensors"
    weights.parent.mkdir()
    weights.write_text("one")
    (weights.parent / "__pycache__").mkdir()
    first = version()
    assert re.fullmatch(f"{commit}-[0-9a-f]{{12}}", first)
    (weights.parent / "__pycache__" / "x.pyc").touch()
    assert version() == first, "images do not hold these"
    weights.write_text("two")
    assert version() not in {first, commit}
    (tmp_path / ".gitignore").write_text("")
    assert version().endswith("-dirty")
