"""The playbooks of the cluster, run twice against Google's APIs and Kubernetes' own in memory."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from momalisa.settings import ROOT, Settings
from tests.infra import cluster as kubernetes
from tests.infra import google as google_apis
from tests.infra import test_kubernetes as checks
from tests.infra.cluster import Cluster
from tests.infra.google import Api, Google, Request, environment

PROJECT = "art-project"
BIN = ROOT / ".venv" / "bin"


@dataclass
class Stage:
    """Google, a cluster and Helm, all in memory, and what playbooks wrote."""

    google: Google
    cluster: Cluster
    folder: Path
    runs: list[str] = field(default_factory=list)

    def play(self, name: str, *, fails: bool = False, **variables: Any) -> dict[str, int]:
        """Run a playbook; return how many tasks were ok, changed and failed."""
        given = {
            "version": "1a2b3c",
            "kubernetes_api": self.cluster.url,
            "deployment_folder": str(self.folder / "deployment"),
            "poll_seconds": 1,
            **variables,
        }
        tools = checks.TOOLS / "kubectl"
        run = subprocess.run(
            [BIN / "ansible-playbook", name, "--extra-vars", json.dumps(given)],
            cwd=ROOT / "infra" / "ansible",
            env=environment(
                self.google,
                GOOGLE_CLOUD_PROJECT=PROJECT,
                PATH=f"{self.folder / 'bin'}:{ROOT / 'tests' / 'infra'}:{tools}:{BIN}:{os.environ['PATH']}",
                HOME=str(self.folder),
                HELM_STATE=str(self.folder / "helm.json"),
                ANSIBLE_NOCOLOR="1",
                ANSIBLE_PIPELINING="1",
                K8S_AUTH_NO_PROXY="127.0.0.1",
                ANSIBLE_LOCALHOST_WARNING="0",
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        self.runs.append(run.stdout + run.stderr)
        assert (run.returncode != 0) == fails, self.runs[-1][-6000:]
        recap = re.search(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=\d+\s+failed=(\d+)", run.stdout)
        assert recap, self.runs[-1][-3000:]
        return dict(zip(("ok", "changed", "failed"), map(int, recap.groups()), strict=True))

    def helm(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = json.loads((self.folder / "helm.json").read_text())["calls"]
        return calls

    def secret(self, name: str) -> str:
        kept = self.google.resources[f"secretmanager/projects/{PROJECT}/secrets/{name}/versions/latest"]
        return base64.b64decode(kept["payload"]["data"]).decode()

    def granted(self) -> set[tuple[str, str, str]]:
        """Return who has which role on what."""
        return {
            (name, binding["role"], member)
            for name, policy in self.google.policies.items()
            for binding in policy.get("bindings", [])
            for member in binding["members"]
        }


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        pytest.MonkeyPatch.context() as patch,
        google_apis.listening(folder) as google,
        kubernetes.listening() as cluster,
    ):
        patch.setitem(google_apis.APIS, "certificatemanager", Api())
        google.overrides.append(_auth_string)
        yield Stage(google, cluster, folder)


def _auth_string(request: Request) -> tuple[int, dict[str, str]] | None:
    return (200, {"authString": "broker-password"}) if request.path.endswith("/authString") else None


@pytest.fixture(scope="module")
def deployed(stage: Stage) -> Stage:
    """A cluster that was deployed once."""
    first = stage.play("deploy-k8s-cluster.yml", domain="walks.example.com")
    assert first["changed"] > 30
    return stage


def test_the_cluster_and_its_nodes_are_asked_for_as_they_must_be(deployed: Stage) -> None:
    made = deployed.google.sent("POST", "/clusters")["cluster"]
    assert made["workloadIdentityConfig"] == {"workloadPool": f"{PROJECT}.svc.id.goog"}
    assert made["gatewayApiConfig"] == {"channel": "CHANNEL_STANDARD"}
    assert made["addonsConfig"]["gcsFuseCsiDriverConfig"] == {"enabled": True}
    assert made["secretManagerConfig"] == {"enabled": True}
    assert made["networkConfig"] == {"datapathProvider": "ADVANCED_DATAPATH"}
    assert made["privateClusterConfig"]["enablePrivateNodes"] is True
    (cpu,) = made["nodePools"]
    assert cpu["autoscaling"]["totalMinNodeCount"] == 2
    gpu = deployed.google.sent("POST", "/nodePools")["nodePool"]
    assert gpu["initialNodeCount"] == 0
    assert gpu["autoscaling"] == {
        "enabled": True,
        "totalMinNodeCount": 0,
        "totalMaxNodeCount": 8,
        "locationPolicy": "ANY",
    }
    node = gpu["config"]
    assert (node["machineType"], node["imageType"], node["spot"]) == ("g2-standard-8", "COS_CONTAINERD", True)
    assert node["accelerators"] == [
        {
            "acceleratorType": "nvidia-l4",
            "acceleratorCount": "1",
            "gpuDriverInstallationConfig": {"gpuDriverVersion": "LATEST"},
        }
    ]
    assert node["workloadMetadataConfig"] == cpu["config"]["workloadMetadataConfig"] == {"mode": "GKE_METADATA"}
    # The pods find the nodes, and are let onto them.
    pod = deployed.cluster.one("Deployment", "render")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-nodepool": gpu["name"]}
    (taint,), (toleration,) = node["taints"], pod["tolerations"]
    assert taint["effect"] == "NO_SCHEDULE"
    assert (toleration["key"], toleration["value"], toleration["effect"]) == (
        taint["key"],
        taint["value"],
        "NoSchedule",
    )
    assert deployed.cluster.one("ScaledObject", "render")["spec"]["maxReplicaCount"] == 8


def test_the_stores_are_private_and_the_broker_evicts_nothing(deployed: Stage) -> None:
    network = f"projects/{PROJECT}/global/networks/momalisa-cluster"
    sql = deployed.google.sent("POST", f"/projects/{PROJECT}/instances")
    assert sql["settings"]["ipConfiguration"] == {"ipv4Enabled": False, "privateNetwork": network}
    assert sql["settings"]["backupConfiguration"]["pointInTimeRecoveryEnabled"] is True
    redis = deployed.google.sent("POST", "/locations/us-central1/instances")
    assert redis["redisConfigs"] == {"maxmemory-policy": "noeviction"}
    assert (redis["connectMode"], redis["authorizedNetwork"]) == ("PRIVATE_SERVICE_ACCESS", network)
    connection = deployed.google.sent("POST", "/connections")
    assert connection["network"] == f"projects/{google_apis.PROJECT_NUMBER}/global/networks/momalisa-cluster"
    for name in ("cluster", "weights"):
        bucket = deployed.google.resources[f"storage/b/{PROJECT}-momalisa-{name}"]
        assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"


def test_secrets_are_drawn_and_are_what_the_settings_take(deployed: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    password = deployed.secret("momalisa-database-password")
    assert len(password) == 40
    user = deployed.google.sent("POST", "/users")
    assert user == {"name": "momalisa", "password": password}
    assert (
        deployed.secret("momalisa-database-url")
        == f"postgresql+psycopg://momalisa:{password}@10.1.0.3:5432/momalisa"
    )
    assert deployed.secret("momalisa-keda-connection") == (
        f"postgresql://momalisa:{password}@10.1.0.3:5432/momalisa?sslmode=require"
    )
    assert deployed.secret("momalisa-broker-url") == "redis://:broker-password@10.1.0.4:6379/0"
    provider = deployed.cluster.one("SecretProviderClass", "settings")
    for each in yaml.safe_load(provider["spec"]["parameters"]["secrets"]):
        _, project, _, name, *_ = each["resourceName"].split("/")
        assert project == PROJECT
        monkeypatch.setenv(each["path"].upper(), deployed.secret(name))
    assert Settings().webhook_secret
    authentication = deployed.cluster.one("TriggerAuthentication", "database")
    (parameter,) = authentication["spec"]["gcpSecretManager"]["secrets"]
    assert deployed.secret(parameter["id"])
    said = "".join(deployed.runs)
    assert password not in said
    assert deployed.secret("momalisa-webhook-secret") not in said


def test_each_account_may_do_what_it_needs_to_and_no_more(deployed: Stage) -> None:
    suffix = f"@{PROJECT}.iam.gserviceaccount.com"
    pods, keda, nodes = (f"momalisa-{name}{suffix}" for name in ("cluster", "keda", "nodes"))
    identities = f"serviceAccount:{PROJECT}.svc.id.goog"
    accounts, secrets = f"iam/projects/{PROJECT}/serviceAccounts", f"secretmanager/projects/{PROJECT}/secrets"
    mounted = ("database-url", "broker-url", "secret-keys", "webhook-secret")
    read = "roles/secretmanager.secretAccessor"
    assert deployed.granted() == {
        (f"storage/b/{PROJECT}-momalisa-cluster", "roles/storage.objectUser", f"serviceAccount:{pods}"),
        (f"storage/b/{PROJECT}-momalisa-weights", "roles/storage.objectUser", f"serviceAccount:{pods}"),
        (f"{accounts}/{pods}", "roles/iam.serviceAccountTokenCreator", f"serviceAccount:{pods}"),
        (f"{accounts}/{pods}", "roles/iam.workloadIdentityUser", f"{identities}[momalisa/momalisa]"),
        (f"{accounts}/{keda}", "roles/iam.workloadIdentityUser", f"{identities}[keda/keda-operator]"),
        *{(f"{secrets}/momalisa-{name}", read, f"serviceAccount:{pods}") for name in mounted},
        (f"{secrets}/momalisa-keda-connection", read, f"serviceAccount:{keda}"),
        *{
            (f"cloudresourcemanager/projects/{PROJECT}", role, f"serviceAccount:{nodes}")
            for role in ("roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader")
        },
    }
    account = deployed.cluster.one("ServiceAccount", "momalisa")
    assert account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"] == pods
    assert account["metadata"]["namespace"] == "momalisa"


def test_the_schema_comes_before_the_pods_and_what_they_need_before_that(deployed: Stage) -> None:
    order = [path.rpartition("/")[2] for path in deployed.cluster.objects]
    kinds = [each["kind"] for each in deployed.cluster.objects.values()]
    assert kinds[0] == "Namespace"
    before = {"Namespace", "ServiceAccount", "SecretProviderClass", "ConfigMap", "NetworkPolicy"}
    jobs = [number for number, kind in enumerate(kinds) if kind == "Job"]
    assert set(kinds[: jobs[0]]) == before
    assert not before & set(kinds[jobs[-1] :])
    assert {order[number] for number in jobs} == {"migrate-1a2b3c", "weights-stable-diffusion-v1-5"}
    weights = deployed.cluster.one("Job", "weights-stable-diffusion-v1-5")["spec"]["template"]["spec"]
    assert weights["containers"][0]["args"] == [
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "/models/stable-diffusion-v1-5",
    ]


def test_what_is_applied_is_the_manifests_with_the_projects_values(deployed: Stage) -> None:
    applied = deployed.cluster.objects.values()
    images = {
        container["image"]
        for each in applied
        if each["kind"] in {"Deployment", "Job"}
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    repository = f"us-central1-docker.pkg.dev/{PROJECT}/momalisa"
    assert images == {f"{repository}/momalisa-{name}:1a2b3c" for name in ("api", "worker", "frontend")}
    (settings,) = [each["data"] for each in applied if each["metadata"]["name"].startswith("settings-")]
    assert settings["BUCKET"] == f"{PROJECT}-momalisa-cluster"
    assert settings["PUBLIC_URL"] == "https://walks.example.com"
    assert settings["MODEL"] == "/models/stable-diffusion-v1-5"
    assert settings["TRUSTED_PROXIES"] == "10.20.0.0/16,10.10.64.0/23,203.0.113.7/32"
    (nginx,) = [each["data"] for each in applied if each["metadata"]["name"].startswith("frontend-")]
    believed = re.findall(r"set_real_ip_from (\S+);", nginx["real-ip.conf"])
    assert ",".join(believed) == settings["TRUSTED_PROXIES"]
    for name, number in (("render", 1), ("weights-stable-diffusion-v1-5", 0)):
        kind = "Deployment" if name == "render" else "Job"
        volume = deployed.cluster.one(kind, name)["spec"]["template"]["spec"]["volumes"][number]
        assert volume["csi"]["volumeAttributes"]["bucketName"] == f"{PROJECT}-momalisa-weights"
    text = json.dumps(list(deployed.cluster.objects.values()))
    assert "example-project" not in text
    assert "192.0.2.1" not in text


def test_ranges_of_addresses_are_those_of_the_manifests(deployed: Stage) -> None:
    subnets = [
        each.body for each in deployed.google.requests if each.method == "POST" and "subnetworks" in each.path
    ]
    (nodes,) = [each for each in subnets if "secondaryIpRanges" in each]
    (proxies,) = [each for each in subnets if each.get("purpose") == "REGIONAL_MANAGED_PROXY"]
    ranges = {each["rangeName"]: each["ipCidrRange"] for each in nodes["secondaryIpRanges"]}
    stores = deployed.google.resources[f"compute/projects/{PROJECT}/global/addresses/momalisa-stores"]
    policies = {
        each["metadata"]["name"]: json.dumps(each["spec"])
        for each in deployed.cluster.objects.values()
        if each["kind"] == "NetworkPolicy"
    }
    assert f'"{stores["address"]}/{stores["prefixLength"]}"' in policies["stores"]
    assert f'"{proxies["ipCidrRange"]}"' in policies["load-balancer"]
    (settings,) = [
        each["data"]
        for each in deployed.cluster.objects.values()
        if each["metadata"]["name"].startswith("settings-")
    ]
    assert settings["TRUSTED_PROXIES"].startswith(f"{ranges['pods']},{proxies['ipCidrRange']},")


def test_a_domain_gets_https_and_http_leads_there(deployed: Stage) -> None:
    gateway = deployed.cluster.one("Gateway", "momalisa")["spec"]
    assert [(each["name"], each["port"]) for each in gateway["listeners"]] == [("http", 80), ("https", 443)]
    name = gateway["listeners"][1]["tls"]["options"]["networking.gke.io/cert-manager-certs"]
    parent = f"certificatemanager/projects/{PROJECT}/locations/us-central1"
    assert deployed.google.resources[f"{parent}/certificates/{name}"]["managed"]["domains"] == ["walks.example.com"]
    (address,) = gateway["addresses"]
    assert (
        f"compute/projects/{PROJECT}/regions/us-central1/addresses/{address['value']}" in deployed.google.resources
    )
    route = deployed.cluster.one("HTTPRoute", "momalisa")["spec"]
    assert route["parentRefs"] == [{"name": "momalisa", "sectionName": "https"}]
    redirect = deployed.cluster.one("HTTPRoute", "to-https")["spec"]
    assert redirect["rules"][0]["filters"][0]["requestRedirect"]["scheme"] == "https"


def test_keda_is_installed_by_helm_as_who_may_read_its_secret(deployed: Stage) -> None:
    (call,) = deployed.helm()
    said = " ".join(call["arguments"])
    assert "upgrade -i" in said
    assert re.search(r"--version=\d+\.\d+\.\d+ ", said), "the version is pinned"
    assert "--repo=https://kedacore.github.io/charts" in said
    assert "--create-namespace" in said
    assert "--wait" in said
    account = f"momalisa-keda@{PROJECT}.iam.gserviceaccount.com"
    assert call["values"] == {"podIdentity": {"gcp": {"enabled": True, "gcpIAMServiceAccount": account}}}


def test_a_wrong_word_stops_the_playbook_before_anything_is_made(deployed: Stage) -> None:
    asked = len(deployed.google.requests)
    for variables, reason in (
        ({"version": "1a2b3c-dirty"}, "commit all changes"),
        ({"ingress": "ingress-nginx"}, "gateway or nginx, not ingress-nginx"),
    ):
        deployed.play("deploy-k8s-cluster.yml", fails=True, **variables)
        assert reason in " ".join(deployed.runs[-1].split())
    assert len(deployed.google.requests) == asked


@dataclass
class Rerun:
    """A run on what is there already."""

    stage: Stage
    recap: dict[str, int]
    asked: list[str]
    """What was asked of Google but questions; of the run beside it, too."""
    applied: list[str]
    """The changes of the cluster."""


@pytest.fixture(scope="module")
def reruns(deployed: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rerun, Rerun]]:
    """The same once more; and beside it, to save time, another way in on a copy of the cluster."""
    folder = tmp_path_factory.mktemp("copy") / "cluster"
    shutil.copytree(deployed.folder, folder)
    with kubernetes.listening() as cluster, ThreadPoolExecutor() as pool:
        cluster.objects = deepcopy(deployed.cluster.objects)
        other = Stage(deployed.google, cluster, folder)
        asked, applied = len(deployed.google.changes), len(deployed.cluster.changes)
        again = pool.submit(deployed.play, "deploy-k8s-cluster.yml", domain="walks.example.com")
        nginx = pool.submit(other.play, "deploy-k8s-cluster.yml", ingress="nginx", settings={"BATCH_SIZE": 4})
        recaps = again.result(), nginx.result()
        changes = [str(each) for each in deployed.google.changes[asked:]]
        yield (
            Rerun(deployed, recaps[0], changes, deployed.cluster.changes[applied:]),
            Rerun(other, recaps[1], changes, cluster.changes),
        )


def test_a_second_run_changes_nothing(reruns: tuple[Rerun, Rerun]) -> None:
    again, _ = reruns
    assert again.asked == []
    assert again.applied == []
    assert len(again.stage.helm()) == 1
    assert again.recap["changed"] == 0


def test_nginx_ingress_is_the_other_way_in_and_other_settings_keep_the_migration(
    reruns: tuple[Rerun, Rerun],
) -> None:
    _, nginx = reruns
    assert nginx.asked == []
    assert not any("/jobs" in each for each in nginx.applied)
    call = nginx.stage.helm()[-1]
    assert "oci://ghcr.io/nginx/charts/nginx-ingress" in " ".join(call["arguments"])
    assert call["values"]["controller"]["service"]["loadBalancerIP"] == "203.0.113.7"
    cluster = nginx.stage.cluster
    rule = cluster.one("Ingress", "momalisa")["spec"]["rules"][0]
    assert "host" not in rule, "without a domain, it serves whatever name it is called by"
    pod = cluster.one("Deployment", "render")["spec"]["template"]["spec"]
    name = pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    settings = cluster.one("ConfigMap", name)["data"]
    assert settings["BATCH_SIZE"] == "4"
    assert settings["PUBLIC_URL"] == "http://203.0.113.7"


# From here on, in this order: each test needs what the one before left.


def test_destroying_asks_first_takes_the_load_balancer_down_and_keeps_data(deployed: Stage) -> None:
    asked = len(deployed.google.changes)
    deployed.play("destroy-k8s-cluster.yml", fails=True)
    assert f"-e confirm={PROJECT}" in deployed.runs[-1]
    assert deployed.google.changes[asked:] == []
    deployed.play("destroy-k8s-cluster.yml", confirm=PROJECT, domain="walks.example.com")
    assert deployed.cluster.changes[-1] == "DELETE api/v1/namespaces/momalisa"
    left = {name for name in deployed.google.resources if not name.startswith("serviceusage/")}
    kept = re.compile(
        r"^(sqladmin|secretmanager|storage|servicenetworking)/|momalisa-stores$|networks/momalisa-cluster$"
    )
    assert {name for name in left if not kept.search(name)} == set()
    assert f"sqladmin/projects/{PROJECT}/instances/momalisa" in left


def test_destroying_again_deletes_data_when_told_so_and_nothing_else(deployed: Stage) -> None:
    gcloud = deployed.folder / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(f'#!/bin/sh\necho "$@" >> {deployed.folder}/gcloud\n')
    gcloud.chmod(0o755)
    network = deployed.google.resources[f"compute/projects/{PROJECT}/global/networks/momalisa-cluster"]
    network["peerings"] = [{"name": "servicenetworking-googleapis-com"}]
    before, applied = len(deployed.google.changes), len(deployed.cluster.changes)
    again = deployed.play("destroy-k8s-cluster.yml", confirm=PROJECT, delete_data=True, domain="walks.example.com")
    asked = [str(each) for each in deployed.google.changes[before:]]
    assert deployed.cluster.changes[applied:] == []
    data = re.compile(r" (sqladmin|secretmanager)\.|/momalisa-stores$|/networks/momalisa-cluster(/removePeering)?$")
    assert [each for each in asked if not data.search(each)] == []
    assert again["changed"] == len(asked) + 1  # both buckets, by one task
    assert (deployed.folder / "gcloud").read_text().splitlines() == [
        f"storage rm --recursive gs://{PROJECT}-momalisa-cluster",
        f"storage rm --recursive gs://{PROJECT}-momalisa-weights",
    ]
    parted = (
        f"POST compute.googleapis.com/compute/v1/projects/{PROJECT}/global/networks/momalisa-cluster/removePeering"
    )
    gone = f"DELETE sqladmin.googleapis.com/v1/projects/{PROJECT}/instances/momalisa"
    last = f"DELETE compute.googleapis.com/compute/v1/projects/{PROJECT}/global/networks/momalisa-cluster"
    assert asked.index(gone) < asked.index(parted) < asked.index(last)
    left = {name for name in deployed.google.resources if not name.startswith(("serviceusage/", "storage/"))}
    assert {name for name in left if not name.startswith("servicenetworking/")} == set()
