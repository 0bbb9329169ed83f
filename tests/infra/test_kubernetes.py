"""The manifests: valid, and true to the code that they run.

Each check is a function that asserts something of all objects of an overlay, and each is shown to fail on a
manifest that was broken for it.
"""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml
from sqlalchemy import text

from api.addresses import client_address
from api.app import app
from momalisa.cli.main import app as command
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.queue import leases
from momalisa.settings import ROOT, SECRETS, Settings
from momalisa.walks import service
from worker.process import shutdown

K8S = ROOT / "infra" / "k8s"
TOOLS = ROOT / ".venv" / "kubernetes-tools"
OVERLAYS = ("gateway", "nginx")
KUBERNETES = "1.33"
"""The oldest version that is thought of."""

COMPONENT = "app.kubernetes.io/component"
WORKERS = {kind.value for kind in ChunkKind}
IMAGES = {"momalisa-api", "momalisa-worker", "momalisa-frontend"}

CRDS = {"keda.sh", "gateway.networking.k8s.io", "networking.gke.io"}
"""Groups whose objects have schemas in @kubernetes-models."""

NO_SCHEMA = {"SecretProviderClass", "PodMonitoring"}
"""Kinds that have none anywhere; what they refer to is checked."""

OTHER_VARIABLES = {"API", "HF_HUB_OFFLINE", "HF_HOME", "LD_LIBRARY_PATH"}
"""What others than MoMALisa read."""

AT_DEFAULT = {
    *("port", "bucket_endpoint", "bucket_public_url", "signed_url_seconds"),
    *("image_size", "max_size", "default_steps", "default_guidance", "batch_size"),
    *("dtype", "compile_cache_dir", "threads", "workers"),
    *("anonymous", "cors_origins", "blocklist", "security_contact"),
    *("broker_ca", "queue_prefix", "metrics_host"),
    *("rate_limits", "requests_per_minute", "submissions_per_minute", "max_waiting_walks", "pixel_steps_per_day"),
    "output_pixels_per_day",
    *("max_open_waits", "max_process_waits"),
    *(
        "lease_seconds",
        "stall_seconds",
        "reconcile_seconds",
        "retention_days",
        "max_attempts",
        "max_queued_messages",
    ),
    *("webhook_loopback", "webhook_ca", "webhook_timeout_seconds"),
    *("momalisa_url", "momalisa_api_key", "otel_exporter_otlp_endpoint"),
    *("renderer", "vertex_endpoint", "vertex_url", "vertex_timeout_seconds"),
    *("aip_http_port", "aip_health_route", "aip_predict_route"),
}
"""Settings that a cluster leaves as they are. A new setting is named here or in the manifests."""

POD_NETWORK, PRIVATE, INTERNET = "10.20.3.4", "10.30.0.3", "93.184.216.34"
LB_ADDRESS, LB_PROXY, LB_HEALTH, METADATA = "192.0.2.1", "10.10.64.9", "35.191.1.2", "169.254.169.254"

Object = dict[str, Any]


@dataclass
class Manifests:
    """The objects of an overlay."""

    overlay: str
    objects: list[Object]

    def all(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        found = [each for each in self.all(kind) if each["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} × {kind}/{name}"
        return found[0]

    def workloads(self) -> list[Object]:
        return self.all("Deployment", "Job")

    def pod(self, name: str) -> Object:
        """Return the specification of a workload's pods."""
        found = [each for each in self.workloads() if component(each) == name]
        assert len(found) == 1, f"{len(found)} workloads are {name}"
        specification: Object = found[0]["spec"]["template"]["spec"]
        return specification

    def selected(self, selector: Object) -> list[Object]:
        """Return the workloads whose pods a selector matches."""
        return [each for each in self.workloads() if matches(selector, labels(each))]


def labels(workload: Object) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def component(workload: Object) -> str:
    return labels(workload)[COMPONENT]


def matches(selector: Object, given: dict[str, str]) -> bool:
    """Tell whether a label selector matches, as Kubernetes does."""
    exact = all(given.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        exact = exact and given.get(rule["key"]) in rule["values"]
    return exact


def container(pod: Object) -> Object:
    assert len(pod["containers"]) == 1
    only: Object = pod["containers"][0]
    return only


def ports(workload: Object) -> dict[str, int]:
    own = container(workload["spec"]["template"]["spec"]).get("ports", [])
    return {port["name"]: port["containerPort"] for port in own}


def variables(manifests: Manifests, pod: Object) -> dict[str, str]:
    """Return the environment of a pod's container."""
    own = container(pod)
    given: dict[str, str] = {}
    for source in own.get("envFrom", []):
        given |= manifests.one("ConfigMap", source["configMapRef"]["name"])["data"]
    return given | {variable["name"]: variable["value"] for variable in own.get("env", [])}


@cache
def built(overlay: str) -> str:
    kubectl = TOOLS / "kubectl" / "kubectl"
    return subprocess.run(
        [kubectl, "kustomize", K8S / "overlays" / overlay], check=True, capture_output=True, text=True
    ).stdout


def manifests_of(overlay: str) -> Manifests:
    return Manifests(overlay, list(yaml.safe_load_all(built(overlay))))


# The checks.


def kubernetes_own_objects_are_valid(manifests: Manifests) -> None:
    for each in manifests.objects:
        if each["apiVersion"].partition("/")[0] not in CRDS and each["kind"] not in NO_SCHEMA:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def custom_objects_are_valid(manifests: Manifests) -> None:
    custom = [each for each in manifests.objects if each["apiVersion"].partition("/")[0] in CRDS]
    assert custom
    script = ROOT / "tests" / "infra" / "kubernetes" / "crds.cjs"
    checked = subprocess.run(
        ["node", script, TOOLS], input=json.dumps(custom), check=True, capture_output=True, text=True
    )
    assert json.loads(checked.stdout) == []


def selectors_find_what_they_mean(manifests: Manifests) -> None:
    for each in manifests.all("Deployment"):
        assert manifests.selected(each["spec"]["selector"]) == [each], each["metadata"]["name"]
        for spread in each["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert manifests.selected(spread["labelSelector"]) == [each]
    for each in manifests.all("Service"):
        found = manifests.selected({"matchLabels": each["spec"]["selector"]})
        assert [component(one) for one in found] == [each["metadata"]["name"]]
    budgets = [manifests.selected(each["spec"]["selector"]) for each in manifests.all("PodDisruptionBudget")]
    assert sorted(component(one) for (one,) in budgets) == ["api", "frontend"]
    for each in manifests.all("PodDisruptionBudget"):
        replicas = manifests.one("Deployment", each["metadata"]["name"])["spec"]["replicas"]
        assert 0 < each["spec"]["maxUnavailable"] < replicas, "a node could never be drained, or all pods at once"


def ports_are_those_that_programs_listen_on(manifests: Manifests) -> None:
    settings = manifests.one("ConfigMap", container(manifests.pod("api"))["envFrom"][0]["configMapRef"]["name"])[
        "data"
    ]
    metrics = int(settings["METRICS_PORT"])
    http = int(settings.get("PORT", Settings.model_fields["port"].default))
    assert settings["HOST"] == "0.0.0.0"  # noqa: S104 - of a pod
    expected = {
        "api": {"http": http, "metrics": metrics},
        "frontend": {"http": 8080},
        **{name: {"metrics": metrics} for name in ("reconciler", *WORKERS)},
    }
    for each in manifests.all("Deployment"):
        assert ports(each) == expected[component(each)], component(each)
        own = container(each["spec"]["template"]["spec"])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert own.get(probe, {}).get("httpGet", {}).get("port", "http") in {*ports(each), "http"}
    for each in manifests.all("Service"):
        (workload,) = manifests.selected({"matchLabels": each["spec"]["selector"]})
        for port in each["spec"]["ports"]:
            assert ports(workload)[port["targetPort"]] == port["port"]
    (monitoring,) = manifests.all("PodMonitoring")
    watched = manifests.selected(monitoring["spec"]["selector"])
    assert {component(each) for each in watched} == {"api", "reconciler", *WORKERS}
    assert all(monitoring["spec"]["endpoints"][0]["port"] in ports(each) for each in watched)


def probes_mean_something(manifests: Manifests) -> None:
    for each in manifests.all("Deployment"):
        own = container(each["spec"]["template"]["spec"])
        port = "http" if component(each) in {"api", "frontend"} else "metrics"
        alive, ready = own["livenessProbe"]["httpGet"], own["readinessProbe"]["httpGet"]
        assert (alive["port"], ready["port"]) == (port, port)
        if component(each) != "frontend":
            assert (alive["path"], ready["path"]) == ("/healthz", "/readyz")
            assert own["startupProbe"]["failureThreshold"] * own["startupProbe"]["periodSeconds"] >= 60
    slow = container(manifests.pod("render"))["startupProbe"]
    assert slow["httpGet"]["path"] == "/readyz"
    assert slow["failureThreshold"] * slow["periodSeconds"] >= 900, "a model may take this long to load"


def secrets_are_where_the_settings_look(manifests: Manifests) -> None:
    (provider,) = manifests.all("SecretProviderClass")
    assert provider["spec"]["provider"] == "gke"
    secrets = yaml.safe_load(provider["spec"]["parameters"]["secrets"])
    assert {each["path"] for each in secrets} == {"database_url", "broker_url", "secret_keys", "webhook_secret"}
    assert {each["path"] for each in secrets} <= set(Settings.model_fields)
    for each in secrets:
        name = f"momalisa-{each['path'].replace('_', '-')}"
        assert each["resourceName"] == f"projects/example-project/secrets/{name}/versions/latest"
    for each in manifests.workloads():
        pod = each["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False, (
            "the token's folder would lie in the one of the secrets"
        )
        if component(each) in {"frontend", "weights"}:
            continue
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
        assert volume["csi"]["driver"] == "secrets-store-gke.csi.k8s.io"
        assert volume["csi"]["volumeAttributes"]["secretProviderClass"] == provider["metadata"]["name"]
        assert {"name": "secrets", "mountPath": str(SECRETS), "readOnly": True} in container(pod)["volumeMounts"]
    assert not manifests.all("Secret"), "no secret is written down"
    assert not {"SECRET_KEYS", "DATABASE_URL"} & {
        name for each in manifests.workloads() for name in variables(manifests, each["spec"]["template"]["spec"])
    }


def settings_are_known_and_complete(manifests: Manifests) -> None:
    (provider,) = manifests.all("SecretProviderClass")
    secrets = {each["path"] for each in yaml.safe_load(provider["spec"]["parameters"]["secrets"])}
    seen: set[str] = set()
    for each in manifests.workloads():
        given = variables(manifests, each["spec"]["template"]["spec"])
        names = {name.lower() for name in given if name not in OTHER_VARIABLES}
        assert names <= set(Settings.model_fields), f"{names - set(Settings.model_fields)} are no settings"
        loaded = _settings(given)
        assert not names & AT_DEFAULT
        assert loaded.model_fields_set >= names
        seen |= names
    missing = set(Settings.model_fields) - seen - secrets - AT_DEFAULT
    assert not missing, f"{missing} are neither in the manifests nor left at their default on purpose"


def _settings(given: dict[str, str]) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        return Settings()


def commands_are_those_of_the_code(manifests: Manifests) -> None:
    known = typer.main.get_command(command).commands  # type: ignore[attr-defined]
    for each in manifests.workloads():
        own = container(each["spec"]["template"]["spec"])
        match own.get("command"):
            case ["python", "-m", "api"]:
                assert component(each) == "api"
            case ["python", "-m", "worker", kind]:
                assert kind == component(each) == ChunkKind(kind).value
            case ["python", "-m", "momalisa", name]:
                assert name in known
                assert component(each).startswith(name)
            case ["python", "-c", code]:
                ast.parse(code)
                assert component(each) == "weights"
            case None:
                assert component(each) == "frontend"
                # NGINX's resolver takes whole names only.
                namespace = each["metadata"]["namespace"]
                (port,) = manifests.one("Service", "api")["spec"]["ports"]
                given = variables(manifests, each["spec"]["template"]["spec"])
                assert given == {"API": f"api.{namespace}.svc.cluster.local:{port['port']}"}
            case other:
                pytest.fail(f"{other} is unknown")
        image = {"frontend": "frontend", "weights": "worker", **dict.fromkeys(WORKERS, "worker")}
        assert own["image"] == f"momalisa-{image.get(component(each), 'api')}"


def each_kind_of_worker_scales_on_its_own_work(manifests: Manifests) -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each for each in manifests.all("ScaledObject")}
    assert set(scaled) == WORKERS
    for kind, each in scaled.items():
        assert "replicas" not in manifests.one("Deployment", kind)["spec"], "each deployment would undo KEDA's work"
        assert container(manifests.pod(kind))["command"][-1] == kind
        triggers = each["spec"]["triggers"]
        for trigger in triggers:
            manifests.one("TriggerAuthentication", trigger["authenticationRef"]["name"])
            assert trigger["type"] == "postgresql"
            assert re.findall(r"kind = '(\w+)'", trigger["metadata"]["query"]) == [kind]
            assert "'leased'" in trigger["metadata"]["query"], "a busy worker would be shut down for an empty list"
        # With what is leased and a target of 1, there are as many workers asked for as are busy.
        assert any(trigger["metadata"]["targetQueryValue"] == "1" for trigger in triggers)
    assert scaled["render"]["spec"]["minReplicaCount"] == 0
    assert scaled["render"]["spec"]["maxReplicaCount"] > 1
    (authentication,) = manifests.all("TriggerAuthentication")
    assert [each["parameter"] for each in authentication["spec"]["gcpSecretManager"]["secrets"]] == ["connection"]


def pods_stop_in_the_time_that_they_are_given(manifests: Manifests) -> None:
    for kind in WORKERS:
        pod = manifests.pod(kind)
        assert shutdown.STOP_SECONDS + 2 <= pod["terminationGracePeriodSeconds"] <= 15, "Spot grants 15 s"
        assert "lifecycle" not in container(pod), "a preStop would take from the time to release the chunk"
    source = (ROOT / "api" / "__main__.py").read_text()
    (graceful,) = re.findall(r"timeout_graceful_shutdown=(\d+)", source)
    for name in ("api", "frontend"):
        pod = manifests.pod(name)
        drain = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert drain >= 15, "the load balancer needs that to forget a pod"
        assert pod["terminationGracePeriodSeconds"] >= drain + int(graceful) + 5
    longest = max(
        each.le for each in Settings.model_fields["webhook_timeout_seconds"].metadata if hasattr(each, "le")
    )
    assert manifests.pod("reconciler")["terminationGracePeriodSeconds"] > longest


def updates_lose_nothing(manifests: Manifests) -> None:
    for each in manifests.all("Deployment"):
        strategy = each["spec"]["strategy"]["rollingUpdate"]
        if component(each) == "render":  # a new pod beside an old one would need another GPU
            assert strategy["maxSurge"] == 0
        else:
            assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
    for name in ("api", "frontend"):
        assert manifests.one("Deployment", name)["spec"]["replicas"] >= 2
    assert manifests.one("Deployment", "reconciler")["spec"]["replicas"] >= 1
    migrate = manifests.pod("migrate")
    assert "envFrom" not in container(migrate), "a Job cannot be changed, and the name of the settings changes"


def containers_are_confined(manifests: Manifests) -> None:
    (namespace,) = manifests.all("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for each in manifests.workloads():
        pod = each["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == "momalisa"
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert (context["runAsUser"], context["runAsGroup"]) == (10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        own = container(pod)
        assert own["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"name": "tmp", "mountPath": "/tmp"} in own["volumeMounts"]  # noqa: S108
        assert own["image"] in IMAGES
        resources = own["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"])
        assert {"memory", "ephemeral-storage"} <= set(resources["limits"])


def rendering_happens_on_gpus_with_weights_that_are_there(manifests: Manifests) -> None:
    pod = manifests.pod("render")
    own, given = container(pod), variables(manifests, pod)
    assert own["resources"]["limits"]["nvidia.com/gpu"] == own["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"cloud.google.com/gke-nodepool": "gpu"}
    assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert given["DEVICE"] == "cuda"
    assert given["HF_HUB_OFFLINE"] == "1", "no hub is asked"
    (weights,) = [volume for volume in pod["volumes"] if volume["name"] == "weights"]
    assert weights["csi"]["readOnly"] is True
    (mount,) = [mount for mount in own["volumeMounts"] if mount["name"] == "weights"]
    assert Path(given["MODEL"]).parent == Path(mount["mountPath"])
    template = manifests.one("Deployment", "render")["spec"]["template"]
    assert template["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    # Who has no weights must know the model by the same name all the same.
    names = {_settings(variables(manifests, manifests.pod(name))).model_name for name in ("api", *WORKERS)}
    assert names == {"stable-diffusion-v1-5"}
    job = container(manifests.pod("weights"))
    assert job["args"][1] == given["MODEL"]
    (copy,) = [volume for volume in manifests.pod("weights")["volumes"] if volume["name"] == "weights"]
    assert copy["csi"]["volumeAttributes"]["bucketName"] == weights["csi"]["volumeAttributes"]["bucketName"]


def the_network_allows_what_is_needed_and_nothing_else(manifests: Manifests) -> None:
    for source in ("api", "reconciler", "render", "assemble", "migrate"):
        assert leaves(manifests, source, PRIVATE, 5432), f"{source} needs PostgreSQL"
        assert leaves(manifests, source, METADATA, 53, "UDP")
    for source in ("api", "reconciler", "render", "assemble"):
        assert leaves(manifests, source, PRIVATE, 6379)
        assert leaves(manifests, source, INTERNET, 443), f"{source} needs the bucket"
        assert leaves(manifests, source, METADATA, 80), f"{source} needs tokens"
        assert not leaves(manifests, source, POD_NETWORK, 443)
        assert enters(manifests, source, {"kubernetes.io/metadata.name": "gmp-system"}, 9100)
        assert not enters(manifests, source, {"kubernetes.io/metadata.name": "default"}, 9100)
    assert leaves(manifests, "weights", INTERNET, 443)
    assert leaves(manifests, "reconciler", INTERNET, 8443), "webhooks go to any port"
    assert not leaves(manifests, "reconciler", METADATA, 8443)
    assert not leaves(manifests, "render", INTERNET, 8443)
    assert not leaves(manifests, "migrate", INTERNET, 443)
    assert not leaves(manifests, "frontend", PRIVATE, 5432)
    assert not leaves(manifests, "frontend", INTERNET, 443)
    api, frontend = labels(manifests.one("Deployment", "api")), labels(manifests.one("Deployment", "frontend"))
    assert leaves(manifests, "frontend", api, 8000)
    assert enters(manifests, "api", frontend, 8000)
    assert not leaves(manifests, "render", api, 8000)
    assert not enters(manifests, "api", labels(manifests.one("Deployment", "render")), 8000)
    for target, port in (("api", 8000), ("frontend", 8080)):
        assert not enters(manifests, target, INTERNET, port)
        if manifests.overlay == "gateway":
            assert enters(manifests, target, LB_PROXY, port)
            assert enters(manifests, target, LB_HEALTH, port)
        else:
            assert enters(manifests, target, {"kubernetes.io/metadata.name": "nginx-ingress"}, port)
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [
        each["spec"] for each in manifests.all("NetworkPolicy")
    ]


Peer = str | dict[str, str]
"""An address outside, or the labels of a pod or of a namespace."""


def leaves(manifests: Manifests, source: str, target: Peer, port: int, protocol: str = "TCP") -> bool:
    return _allowed(manifests, source, target, port, protocol, "Egress")


def enters(manifests: Manifests, target: str, source: Peer, port: int) -> bool:
    return _allowed(manifests, target, source, port, "TCP", "Ingress")


def _allowed(manifests: Manifests, own: str, peer: Peer, port: int, protocol: str, direction: str) -> bool:
    """Tell whether the policies let a pod talk, as Kubernetes adds them up."""
    word, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    pod = {COMPONENT: own}
    policies = [
        each["spec"] for each in manifests.all("NetworkPolicy") if matches(each["spec"]["podSelector"], pod)
    ]
    if not any(direction in each["policyTypes"] for each in policies):
        return True
    return any(
        any(_is_peer(one, peer) for one in rule[side])
        and any(
            given["protocol"] == protocol and given["port"] <= port <= given.get("endPort", given["port"])
            for given in rule["ports"]
        )
        for each in policies
        for rule in each.get(word, [])
    )


def _is_peer(rule: Object, peer: Peer) -> bool:
    if block := rule.get("ipBlock"):
        return (
            isinstance(peer, str)
            and ip_address(peer) in ip_network(block["cidr"])
            and not any(ip_address(peer) in ip_network(each) for each in block.get("except", []))
        )
    selector = rule.get("podSelector", rule.get("namespaceSelector"))
    return not isinstance(peer, str) and selector is not None and matches(selector, peer)


def paths_lead_where_they_should(manifests: Manifests) -> None:
    rules = _rules(manifests)
    for _, _, name, port in rules:
        assert port in [each["port"] for each in manifests.one("Service", name)["spec"]["ports"]]
    documented = [path.replace("{walk_id}", "1") for path in app.openapi()["paths"] if path.startswith("/v1")]
    assert len(documented) > 5
    for path in (*documented, "/v1", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
        assert _leads(rules, path) == "api", path
    for path in ("/", "/walks/1", "/gallery", "/about", "/static/favicon.svg", "/v10", "/docs.html"):
        assert _leads(rules, path) == "frontend", path


def _rules(manifests: Manifests) -> list[tuple[str, str, str, int]]:
    """Return the kind of match, the path, the service and its port of each rule."""
    if manifests.overlay == "nginx":
        (ingress,) = manifests.all("Ingress")
        (rule,) = ingress["spec"]["rules"]
        return [
            (
                each["pathType"],
                each["path"],
                each["backend"]["service"]["name"],
                each["backend"]["service"]["port"]["number"],
            )
            for each in rule["http"]["paths"]
        ]
    route = manifests.one("HTTPRoute", "momalisa")
    gateway = manifests.one("Gateway", route["spec"]["parentRefs"][0]["name"])
    assert route["spec"]["parentRefs"][0]["sectionName"] in [each["name"] for each in gateway["spec"]["listeners"]]
    return [
        (
            match["path"]["type"].replace("PathPrefix", "Prefix"),
            match["path"]["value"],
            backend["name"],
            backend["port"],
        )
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for backend in rule["backendRefs"]
    ]


def _leads(rules: list[tuple[str, str, str, int]], path: str) -> str:
    """Return the service that a path leads to: an exact match, else the longest prefix of whole segments."""
    fits = [
        (kind == "Exact", len(value), service)
        for kind, value, service, _ in rules
        if path == value or (kind == "Prefix" and f"{path}/".startswith(f"{value.rstrip('/')}/"))
    ]
    return max(fits)[2]


def the_load_balancer_waits_for_held_answers(manifests: Manifests) -> None:
    if manifests.overlay == "nginx":
        (ingress,) = manifests.all("Ingress")
        given = ingress["metadata"]["annotations"]
        assert all(name.startswith("nginx.org/") for name in given), "other controllers have other names"
        assert int(given["nginx.org/proxy-read-timeout"].removesuffix("s")) > 30
        assert given["nginx.org/proxy-buffering"] == "False"
        return
    for each in manifests.all("GCPBackendPolicy", "HealthCheckPolicy"):
        service = manifests.one("Service", each["spec"]["targetRef"]["name"])
        if each["kind"] == "HealthCheckPolicy":
            check = each["spec"]["default"]["config"]["httpHealthCheck"]
            assert [check["port"]] == [port["port"] for port in service["spec"]["ports"]]
    events = manifests.one("GCPBackendPolicy", "api")["spec"]["default"]
    assert events["timeoutSec"] >= 600, "a stream of events is one answer"
    assert manifests.one("GCPBackendPolicy", "frontend")["spec"]["default"]["timeoutSec"] > 30


def visitors_are_known_by_their_own_address(manifests: Manifests) -> None:
    trusted = _settings(variables(manifests, manifests.pod("api"))).trusted_proxies
    visitor, pod = "198.51.100.7", POD_NETWORK
    (configuration,) = [
        each["data"]["real-ip.conf"]
        for each in manifests.all("ConfigMap")
        if each["metadata"]["name"].startswith("frontend-")
    ]
    believed = [ip_network(each) for each in re.findall(r"set_real_ip_from (\S+);", configuration)]
    assert sorted(map(str, believed)) == sorted(map(str, trusted)), "NGINX and the API believe the same proxies"
    assert "real_ip_recursive on;" in configuration
    # The load balancer adds the visitor and itself, NGINX Ingress the visitor only.
    peer, forwarded = {
        "gateway": (LB_PROXY, f"1.1.1.1, {visitor}, {LB_ADDRESS}"),
        "nginx": (pod, f"1.1.1.1, {visitor}"),
    }[manifests.overlay]
    assert client_address(peer, [forwarded], trusted) == visitor
    through_the_frontend = client_address(peer, [forwarded], [each for each in believed if each.version == 4])
    assert client_address(pod, [through_the_frontend], trusted) == visitor
    assert client_address(visitor, ["1.1.1.1"], trusted) == visitor


CHECKS: tuple[Callable[[Manifests], None], ...] = (
    kubernetes_own_objects_are_valid,
    custom_objects_are_valid,
    selectors_find_what_they_mean,
    ports_are_those_that_programs_listen_on,
    probes_mean_something,
    secrets_are_where_the_settings_look,
    settings_are_known_and_complete,
    commands_are_those_of_the_code,
    each_kind_of_worker_scales_on_its_own_work,
    pods_stop_in_the_time_that_they_are_given,
    updates_lose_nothing,
    containers_are_confined,
    rendering_happens_on_gpus_with_weights_that_are_there,
    the_network_allows_what_is_needed_and_nothing_else,
    paths_lead_where_they_should,
    the_load_balancer_waits_for_held_answers,
    visitors_are_known_by_their_own_address,
)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("check", CHECKS)
def test_the_manifests_are_right(check: Callable[[Manifests], None], overlay: str) -> None:
    check(manifests_of(overlay))


# The checks are checked: each finds what was broken for it.


def put(kind: str, name: str, path: str, value: Any) -> Callable[[Manifests], None]:
    """Return what changes one field of an object; a value of None removes it."""

    def change(manifests: Manifests) -> None:
        place: Any = manifests.one(kind, name)
        *parents, last = [int(part) if part.isdigit() else part.replace("~", ".") for part in path.split(".")]
        for part in parents:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return change


def setting(name: str, value: str | None) -> Callable[[Manifests], None]:
    def change(manifests: Manifests) -> None:
        (data,) = [
            each["data"] for each in manifests.all("ConfigMap") if each["metadata"]["name"].startswith("settings-")
        ]
        if value is None:
            del data[name]
        else:
            data[name] = value

    return change


def without(kind: str, name: str) -> Callable[[Manifests], None]:
    def change(manifests: Manifests) -> None:
        manifests.objects.remove(manifests.one(kind, name))

    return change


POD = "spec.template.spec"
MAIN = f"{POD}.containers.0"
FAULTS: tuple[tuple[Callable[[Manifests], None], Callable[[Manifests], None]], ...] = (
    (kubernetes_own_objects_are_valid, put("Deployment", "api", "spec.replica", 2)),
    (kubernetes_own_objects_are_valid, put("Deployment", "api", f"{MAIN}.image", 7)),
    (kubernetes_own_objects_are_valid, put("Job", "migrate", f"{POD}.restartPolicy", ["Never"])),
    (custom_objects_are_valid, put("ScaledObject", "render", "spec.minReplicaCount", "none")),
    (custom_objects_are_valid, put("ScaledObject", "render", "spec.coolDownPeriod", 30)),
    (custom_objects_are_valid, put("HTTPRoute", "momalisa", "spec.rules.0.matches.0.path.type", "Prefix")),
    (custom_objects_are_valid, put("TriggerAuthentication", "database", "spec.gcpSecretManager.secret", [])),
    (custom_objects_are_valid, put("GCPBackendPolicy", "api", "spec.default.timeoutSec", "1h")),
    (selectors_find_what_they_mean, put("Service", "api", f"spec.selector.{COMPONENT.replace('.', '~')}", "web")),
    (
        selectors_find_what_they_mean,
        put("PodDisruptionBudget", "api", f"spec.selector.matchLabels.{COMPONENT.replace('.', '~')}", "web"),
    ),
    (selectors_find_what_they_mean, put("PodDisruptionBudget", "api", "spec.maxUnavailable", 2)),
    (ports_are_those_that_programs_listen_on, put("Service", "api", "spec.ports.0.port", 80)),
    (ports_are_those_that_programs_listen_on, put("Deployment", "render", f"{MAIN}.ports.0.containerPort", 9090)),
    (ports_are_those_that_programs_listen_on, setting("METRICS_PORT", "9101")),
    (ports_are_those_that_programs_listen_on, put("PodMonitoring", "momalisa", "spec.endpoints.0.port", "prom")),
    (probes_mean_something, put("Deployment", "render", f"{MAIN}.readinessProbe.httpGet.path", "/healthz")),
    (probes_mean_something, put("Deployment", "api", f"{MAIN}.livenessProbe.httpGet.path", "/readyz")),
    (probes_mean_something, put("Deployment", "render", f"{MAIN}.startupProbe.failureThreshold", 10)),
    (secrets_are_where_the_settings_look, put("Deployment", "api", f"{POD}.automountServiceAccountToken", True)),
    (secrets_are_where_the_settings_look, put("Deployment", "api", f"{MAIN}.volumeMounts.0.mountPath", "/secrets")),
    (
        secrets_are_where_the_settings_look,
        put("Deployment", "api", f"{POD}.volumes.0.csi.volumeAttributes.secretProviderClass", "other"),
    ),
    (settings_are_known_and_complete, setting("BUKET", "walks")),
    (settings_are_known_and_complete, setting("MODEL", None)),
    (settings_are_known_and_complete, put("Deployment", "render", f"{MAIN}.env.0.name", "DEVISE")),
    (commands_are_those_of_the_code, put("Deployment", "render", f"{MAIN}.command.3", "rendering")),
    (commands_are_those_of_the_code, put("Deployment", "reconciler", f"{MAIN}.command.3", "reconcil")),
    (commands_are_those_of_the_code, put("Deployment", "assemble", f"{MAIN}.image", "momalisa-api")),
    (each_kind_of_worker_scales_on_its_own_work, put("Deployment", "render", "spec.replicas", 1)),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put("ScaledObject", "assemble", "spec.scaleTargetRef.name", "api"),
    ),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put(
            "ScaledObject",
            "render",
            "spec.triggers.0.metadata.query",
            "SELECT count(*) FROM chunks WHERE kind = 'render' AND status = 'queued'",
        ),
    ),
    (each_kind_of_worker_scales_on_its_own_work, put("ScaledObject", "render", "spec.triggers.1", None)),
    (
        pods_stop_in_the_time_that_they_are_given,
        put("Deployment", "render", f"{POD}.terminationGracePeriodSeconds", 30),
    ),
    (
        pods_stop_in_the_time_that_they_are_given,
        put("Deployment", "assemble", f"{POD}.terminationGracePeriodSeconds", 9),
    ),
    (
        pods_stop_in_the_time_that_they_are_given,
        put("Deployment", "api", f"{POD}.terminationGracePeriodSeconds", 30),
    ),
    (updates_lose_nothing, put("Deployment", "api", "spec.strategy.rollingUpdate.maxUnavailable", 1)),
    (updates_lose_nothing, put("Deployment", "reconciler", "spec.replicas", 0)),
    (containers_are_confined, put("Deployment", "api", f"{MAIN}.securityContext.readOnlyRootFilesystem", False)),
    (containers_are_confined, put("Deployment", "frontend", f"{POD}.securityContext.runAsUser", 0)),
    (containers_are_confined, put("Job", "weights", f"{MAIN}.resources.limits.memory", None)),
    (rendering_happens_on_gpus_with_weights_that_are_there, setting("MODEL", "/weights/stable-diffusion-v1-5")),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        setting("MODEL", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        put("Deployment", "render", f"{MAIN}.env.1.value", "0"),
    ),
    (rendering_happens_on_gpus_with_weights_that_are_there, put("Deployment", "render", f"{POD}.tolerations", [])),
    *(
        (the_network_allows_what_is_needed_and_nothing_else, without("NetworkPolicy", name))
        for name in (
            *("default-deny", "names", "stores", "google", "webhooks", "pages", "api", "metrics"),
            "load-balancer",
        )
    ),
    (
        the_network_allows_what_is_needed_and_nothing_else,
        put("NetworkPolicy", "webhooks", "spec.egress.0.to.0.ipBlock.except", []),
    ),
    (paths_lead_where_they_should, put("HTTPRoute", "momalisa", "spec.rules.0.matches", [])),
    (paths_lead_where_they_should, put("HTTPRoute", "momalisa", "spec.rules.1.backendRefs.0.port", 80)),
    (the_load_balancer_waits_for_held_answers, put("GCPBackendPolicy", "api", "spec.default.timeoutSec", 30)),
    (
        the_load_balancer_waits_for_held_answers,
        put("HealthCheckPolicy", "frontend", "spec.default.config.httpHealthCheck.port", 80),
    ),
    (commands_are_those_of_the_code, put("Deployment", "frontend", f"{MAIN}.env.0.value", "api:8000")),
    (visitors_are_known_by_their_own_address, setting("TRUSTED_PROXIES", "10.20.0.0/16,10.10.64.0/23")),
)


@pytest.mark.parametrize(("check", "fault"), FAULTS)
def test_each_check_finds_a_fault(check: Callable[[Manifests], None], fault: Callable[[Manifests], None]) -> None:
    broken = Manifests("gateway", deepcopy(manifests_of("gateway").objects))
    fault(broken)
    with pytest.raises(
        (AssertionError, ValueError, KeyError, kubernetes_validate.ValidationError, pytest.fail.Exception)
    ):
        check(broken)


def test_every_check_is_checked() -> None:
    assert {check for check, _ in FAULTS} == set(CHECKS)


@pytest.fixture
def queries() -> list[tuple[str, str]]:
    """The queries of KEDA, each with the kind of worker that it scales."""
    return [
        (each["metadata"]["name"], trigger["metadata"]["query"])
        for each in manifests_of("gateway").all("ScaledObject")
        for trigger in each["spec"]["triggers"]
    ]


@pytest.mark.usefixtures("services")
def test_kedas_queries_count_what_waits_and_what_is_at_work(
    queries: list[tuple[str, str]], spec: Callable[..., WalkSpec]
) -> None:
    def counted() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        with transaction() as session:
            for kind, query in queries:
                found.setdefault(kind, []).append(session.execute(text(query)).scalar_one())
        return found

    assert counted() == {"render": [0, 0], "assemble": [0]}
    with transaction() as session:
        walk = service.create(session, spec(frames=40), public=True, owner="ann")
    total = counted()["render"][0]
    assert total > 1
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
    assert counted() == {"render": [total, 1], "assemble": [0]}, "a list that runs empty does not end who works"
    with transaction() as session:
        assert claimed
        leases.release(session, claimed)
    assert counted() == {"render": [total, 0], "assemble": [0]}
    with transaction() as session:
        service.cancel(session, walk.id, owner="ann")
    assert counted() == {"render": [0, 0], "assemble": [0]}, "nothing is left to wait for"


def test_other_settings_are_a_rolling_update(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    changed = tmp_path / "k8s" / "base" / "settings.env"
    changed.write_text(changed.read_text().replace("LOG_FORMAT=json", "LOG_FORMAT=text"))
    kubectl = TOOLS / "kubectl" / "kubectl"
    again = subprocess.run(
        [kubectl, "kustomize", tmp_path / "k8s" / "overlays" / "gateway"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    before, after = manifests_of("gateway"), Manifests("gateway", list(yaml.safe_load_all(again)))
    for name in ("api", "render"):
        assert before.pod(name) != after.pod(name)
    assert before.pod("migrate") == after.pod("migrate")
