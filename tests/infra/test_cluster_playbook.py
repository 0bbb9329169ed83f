"""The playbooks of the cluster, run twice against Google's APIs and Kubernetes' own in memory."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from momalisa.db import session
from momalisa.maintenance import reconciler
from momalisa.settings import ROOT, Settings
from tests.infra import cluster as kubernetes
from tests.infra import google as google_apis
from tests.infra.cluster import Cluster
from tests.infra.google import Google, Request, environment

PROJECT = "art-project"
CLUSTER = f"projects/{PROJECT}/locations/us-central1/clusters/momalisa"
BIN = ROOT / ".venv" / "bin"
TOOLS = ROOT / ".venv" / "kubernetes-tools"


@dataclass
class Stage:
    """Google, a cluster and Helm, all in memory, and what playbooks wrote."""

    google: Google
    cluster: Cluster
    folder: Path
    runs: list[str] = field(default_factory=list)

    def play(self, name: str, *arguments: str, fails: bool = False, **variables: Any) -> dict[str, int]:
        """Run a playbook; return how many tasks were ok, changed and failed."""
        given = {
            "version": "1a2b3c",
            "kubernetes_api": self.cluster.url,
            "deployment_folder": str(self.folder / "deployment"),
            "poll_seconds": 1,
            **variables,
        }
        tools = TOOLS / "kubectl"
        run = subprocess.run(
            [BIN / "ansible-playbook", name, *arguments, "--extra-vars", json.dumps(given)],
            cwd=ROOT / "infra" / "ansible",
            env=environment(
                self.google,
                GOOGLE_CLOUD_PROJECT=PROJECT,
                PATH=f"{self.folder / 'bin'}:{ROOT / 'tests' / 'infra'}:{tools}:{BIN}:{os.environ['PATH']}",
                HOME=str(self.folder),
                HELM=str(TOOLS / "helm" / "helm"),
                HELM_CALLS=str(self.folder / "helm.json"),
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

    def releases(self) -> list[dict[str, Any]]:
        """Return what Helm was called for: arguments, values, and the objects of our own chart."""
        calls: list[dict[str, Any]] = json.loads((self.folder / "helm.json").read_text())
        return calls

    def one(self, kind: str, name: str) -> Any:
        """Return an object of our chart, as it was last installed; there must be one of this kind and name."""
        (found,) = [
            each
            for each in self.releases()[-1]["objects"]
            if (each["kind"], each["metadata"]["name"]) == (kind, name)
        ]
        return found

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
        google_apis.listening(folder) as google,
        kubernetes.listening() as cluster,
    ):
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
    assert made["addonsConfig"]["gcsFuseCsiDriverConfig"] == {"enabled": True}
    assert made["secretManagerConfig"] == {"enabled": True}
    assert made["networkConfig"] == {
        "datapathProvider": "ADVANCED_DATAPATH",
        "defaultEnablePrivateNodes": True,
        "gatewayApiConfig": {"channel": "CHANNEL_STANDARD"},
    }
    (cpu,) = made["nodePools"]
    assert cpu["autoscaling"]["totalMinNodeCount"] == 2
    assert cpu["config"]["workloadMetadataConfig"] == {"mode": "GKE_METADATA"}


def test_gke_makes_nodes_with_gpus_as_the_compute_class_says(deployed: Stage) -> None:
    made = deployed.google.sent("POST", "/clusters")["cluster"]
    creation, node_class = made["autoscaling"], deployed.one("ComputeClass", "momalisa-gpu")["spec"]
    assert creation["enableNodeAutoprovisioning"] is True
    assert creation["autoprovisioningLocations"] == node_class["priorityDefaults"]["location"]["zones"]
    assert len(creation["autoprovisioningLocations"]) == 3
    account = f"momalisa-nodes@{PROJECT}.iam.gserviceaccount.com"
    assert creation["autoprovisioningNodePoolDefaults"]["serviceAccount"] == account
    assert node_class["nodePoolConfig"]["serviceAccount"] == account
    assert [("flexStart" in each, each.get("spot")) for each in node_class["priorities"]] == [
        (False, True),
        (True, None),
        (False, False),
    ]
    # The limits let all workers have a node each, beside the CPU nodes: 8 of 8 processors and 6 of 4.
    scaled = deployed.one("ScaledObject", "momalisa-render-main")["spec"]
    limits = {each["resourceType"]: int(each["maximum"]) for each in creation["resourceLimits"]}
    assert limits == {"cpu": 8 * 8 + 6 * 4, "memory": 8 * (8 * 8 + 6 * 4), "nvidia-l4": scaled["maxReplicaCount"]}
    pod = deployed.one("Deployment", "momalisa-render-main")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/compute-class": "momalisa-gpu"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_images_are_streamed(deployed: Stage) -> None:
    made = deployed.google.sent("POST", "/clusters")["cluster"]
    assert made["nodePoolDefaults"]["nodeConfigDefaults"]["gcfsConfig"] == {"enabled": True}
    assert made["nodePools"][0]["config"]["gcfsConfig"] == {"enabled": True}
    assert (
        "containerfilesystem.googleapis.com" in deployed.google.sent("POST", "/services:batchEnable")["serviceIds"]
    )
    assert "roles/serviceusage.serviceUsageConsumer" in {role for _, role, _ in deployed.granted()}


def test_cloud_sql_lets_in_all_pods_of_a_rollout(deployed: Stage) -> None:
    pool: Any = session.engine().pool
    pooled = pool.size() + pool._max_overflow
    of_each = {
        "api": pooled + 2,  # it listens by one more, and by two while it changes that
        "reconciler": min(pooled, len(reconciler.TASKS) + 2),  # a thread each, the gauges, and notifications
        "render": 3,  # `docs/scaling.md`
        "assemble": 3,
        "frontend": 0,
    }
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]
        for each in deployed.releases()[-1]["objects"]
        if each["kind"] == "ScaledObject"
    }
    needed = 2  # the migration
    for each in deployed.releases()[-1]["objects"]:
        if each["kind"] == "Deployment":
            of, spec = each["metadata"]["name"], each["spec"]
            pods = scaled[of]["maxReplicaCount"] if of in scaled else spec["replicas"]
            part = spec["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
            needed += (pods + spec["strategy"]["rollingUpdate"]["maxSurge"]) * of_each[part]
    needed += sum(2 * len(each["triggers"]) for each in scaled.values())
    flags = deployed.google.sent("POST", f"/projects/{PROJECT}/instances")["settings"]["databaseFlags"]
    assert [each["name"] for each in flags] == ["max_connections"]
    assert 100 < needed <= int(flags[0]["value"]) - 15, "15 are PostgreSQL's and Cloud SQL's own"


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
    provider = deployed.one("SecretProviderClass", "momalisa")
    for each in yaml.safe_load(provider["spec"]["parameters"]["secrets"]):
        _, project, _, name, *_ = each["resourceName"].split("/")
        assert project == PROJECT
        monkeypatch.setenv(each["path"].upper(), deployed.secret(name))
    assert Settings().webhook_secret
    authentication = deployed.one("TriggerAuthentication", "momalisa-database")
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
            for role in (
                "roles/container.defaultNodeServiceAccount",
                "roles/artifactregistry.reader",
                "roles/serviceusage.serviceUsageConsumer",
            )
        },
    }
    account = deployed.one("ServiceAccount", "momalisa")
    assert account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"] == pods


def test_the_chart_is_installed_with_the_projects_values(deployed: Stage) -> None:
    namespace = deployed.cluster.one("Namespace", "momalisa")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert [each["arguments"][-2] for each in deployed.releases()] == ["keda", "momalisa"], (
        "KEDA's kinds come first"
    )
    objects = deployed.releases()[-1]["objects"]
    images = {
        container["image"]
        for each in objects
        if each["kind"] in {"Deployment", "Job"}
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    repository = f"us-central1-docker.pkg.dev/{PROJECT}/momalisa"
    assert images == {f"{repository}/momalisa-{name}:1a2b3c" for name in ("api", "worker", "frontend")}
    settings = deployed.one("ConfigMap", "momalisa-settings")["data"]
    assert settings["BUCKET"] == f"{PROJECT}-momalisa-cluster"
    assert settings["SIGNED_URLS"] == "on"
    assert settings["PUBLIC_URL"] == "https://walks.example.com"
    assert settings["MODEL"] == "/models/stable-diffusion-v1-5"
    assert settings["TRUSTED_PROXIES"] == "10.20.0.0/16,10.10.64.0/23,203.0.113.7/32"
    (job,) = [each for each in objects if each["metadata"]["name"].startswith("momalisa-weights-")]
    for each in (deployed.one("Deployment", "momalisa-render-main"), job):
        (weights,) = [v for v in each["spec"]["template"]["spec"]["volumes"] if v["name"] == "weights"]
        assert weights["csi"]["volumeAttributes"]["bucketName"] == f"{PROJECT}-momalisa-weights"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "/models/stable-diffusion-v1-5",
    ]


def test_kubectl_knows_the_cluster(deployed: Stage) -> None:
    kubectl = subprocess.run(
        [TOOLS / "kubectl" / "kubectl", "config", "view", "--minify", "--raw", "--output=json"],
        env={**os.environ, "HOME": str(deployed.folder), "KUBECONFIG": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    config = json.loads(kubectl.stdout)
    assert config["current-context"] == f"gke_{PROJECT}_us-central1_momalisa", "as gcloud calls it"
    assert config["contexts"][0]["context"]["namespace"] == "momalisa"
    cluster = config["clusters"][0]["cluster"]
    assert cluster == {"server": "https://203.0.113.8", "certificate-authority-data": "Zm9yIHRlc3Rz"}
    assert config["users"][0]["user"]["exec"]["command"] == "gke-gcloud-auth-plugin"
    assert (deployed.folder / ".kube" / "config").stat().st_mode & 0o777 == 0o600


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
        for each in deployed.releases()[-1]["objects"]
        if each["kind"] == "NetworkPolicy"
    }
    assert f'"{stores["address"]}/{stores["prefixLength"]}"' in policies["momalisa-stores"]
    assert f'"{proxies["ipCidrRange"]}"' in policies["momalisa-load-balancer"]
    settings = deployed.one("ConfigMap", "momalisa-settings")["data"]
    assert settings["TRUSTED_PROXIES"].startswith(f"{ranges['pods']},{proxies['ipCidrRange']},")


def test_a_domain_gets_https_and_http_leads_there(deployed: Stage) -> None:
    gateway = deployed.one("Gateway", "momalisa")["spec"]
    assert [(each["name"], each["port"]) for each in gateway["listeners"]] == [("http", 80), ("https", 443)]
    name = gateway["listeners"][1]["tls"]["options"]["networking.gke.io/cert-manager-certs"]
    parent = f"certificatemanager/projects/{PROJECT}/locations/us-central1"
    assert deployed.google.resources[f"{parent}/certificates/{name}"]["managed"]["domains"] == ["walks.example.com"]
    (address,) = gateway["addresses"]
    assert (
        f"compute/projects/{PROJECT}/regions/us-central1/addresses/{address['value']}" in deployed.google.resources
    )
    route = deployed.one("HTTPRoute", "momalisa")["spec"]
    assert route["parentRefs"] == [{"name": "momalisa", "sectionName": "https"}]
    redirect = deployed.one("HTTPRoute", "momalisa-to-https")["spec"]
    assert redirect["rules"][0]["filters"][0]["requestRedirect"]["scheme"] == "https"


def test_keda_is_installed_by_helm_as_who_may_read_its_secret(deployed: Stage) -> None:
    call, _ = deployed.releases()
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
        ({"cluster_state": "gone"}, "present or absent, not gone"),
        ({"gpu_nodes_max": 40}, "allows 200 on db-custom-1-6656"),
    ):
        deployed.play("deploy-k8s-cluster.yml", fails=True, **variables)
        assert reason in " ".join(deployed.runs[-1].split())
    assert len(deployed.google.requests) == asked


@pytest.mark.parametrize("domain", ["", "walks.example.com"], ids=["http", "https"])
def test_nginx_ingress_is_the_other_way_in(google: Google, tmp_path: Path, domain: str) -> None:
    google.put("container", CLUSTER, {})
    with kubernetes.listening() as cluster:
        stage = Stage(google, cluster, tmp_path)
        stage.play(
            "deploy-k8s-cluster.yml",
            "--start-at-task=Read how the cluster is reached",
            ingress="nginx",
            domain=domain,
            acme_email="me@example.com",
            address_of_the_website="203.0.113.7",
            settings={"BATCH_SIZE": 4},
            chart_values={"api": {"replicas": 3}},
        )
    assert google.changes == []
    _, controller, *issuer, ours = stage.releases()
    assert "oci://ghcr.io/nginx/charts/nginx-ingress" in controller["arguments"][-1]
    assert controller["values"]["controller"]["service"]["loadBalancerIP"] == "203.0.113.7"
    assert controller["values"]["controller"]["allowEmptyIngressHost"] is True
    ingress, (rule,) = stage.one("Ingress", "momalisa"), stage.one("Ingress", "momalisa")["spec"]["rules"]
    settings = stage.one("ConfigMap", "momalisa-settings")["data"]
    assert settings["BATCH_SIZE"] == "4"
    assert ours["values"]["api"] == {"replicas": 3}
    if domain:
        (cert_manager,) = issuer
        assert cert_manager["arguments"][-2] == "cert-manager"
        assert stage.one("Issuer", "momalisa")["spec"]["acme"]["email"] == "me@example.com"
        assert ingress["spec"]["tls"] == [{"hosts": [domain], "secretName": "momalisa-tls"}]
        assert (rule["host"], settings["PUBLIC_URL"]) == (domain, f"https://{domain}")
    else:
        assert issuer == []
        assert "host" not in rule, "without a domain, it serves whatever name it is called by"
        assert settings["PUBLIC_URL"] == "http://203.0.113.7"


# From here on, in this order: each test needs what the one before left.


def test_a_second_run_changes_nothing(deployed: Stage) -> None:
    asked, applied = len(deployed.google.changes), len(deployed.cluster.changes)
    again = deployed.play("deploy-k8s-cluster.yml", domain="walks.example.com")
    assert deployed.google.changes[asked:] == []
    assert deployed.cluster.changes[applied:] == []
    assert len(deployed.releases()) == 2
    assert again["changed"] == 0


def test_destroying_asks_first_takes_the_load_balancer_down_and_keeps_data(deployed: Stage) -> None:
    asked = len(deployed.google.changes)
    deployed.play("deploy-k8s-cluster.yml", fails=True, cluster_state="absent")
    assert f"-e confirm={PROJECT}" in deployed.runs[-1]
    assert deployed.google.changes[asked:] == []
    deployed.play("deploy-k8s-cluster.yml", cluster_state="absent", confirm=PROJECT, domain="walks.example.com")
    assert deployed.cluster.changes[-1] == "DELETE api/v1/namespaces/momalisa"
    assert "gke_" not in (deployed.folder / ".kube" / "config").read_text()
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
