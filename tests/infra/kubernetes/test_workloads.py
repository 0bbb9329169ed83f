"""Pods: what they run, how they are asked, how they stop, and how a new version takes their place."""

import ast
import re
from pathlib import Path

import pytest
import typer.main

from momalisa.cli.main import app as command
from momalisa.domain.states import ChunkKind
from momalisa.settings import ROOT, Settings
from tests.infra.kubernetes.chart import (
    COMPONENT,
    MAIN,
    POD,
    SETS,
    Check,
    Fault,
    Manifests,
    Object,
    component,
    container,
    finds,
    labels,
    parsed,
    ports,
    put,
    rendered,
    template,
)
from worker.process import shutdown

WORKERS = {kind.value for kind in ChunkKind}
COMPONENT_IN_PATH = COMPONENT.replace(".", "~")


def selectors_find_what_they_mean(manifests: Manifests) -> None:
    for each in manifests.all("Deployment"):
        assert manifests.selected(each["spec"]["selector"]) == [each], each["metadata"]["name"]
        for spread in each["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert manifests.selected(spread["labelSelector"]) == [each]
    for each in manifests.all("Service"):
        found = manifests.selected({"matchLabels": each["spec"]["selector"]})
        assert [f"momalisa-{component(one)}" for one in found] == [each["metadata"]["name"]]
    for each in manifests.workloads():
        assert labels(each)["app.kubernetes.io/instance"] == "momalisa", "another release has the same parts"


def pods_are_spread_and_few_are_evicted(manifests: Manifests) -> None:
    if manifests.values == "bare":
        assert not manifests.all("PodDisruptionBudget")
        assert "topologySpreadConstraints" not in manifests.pod("api")
        return
    budgets = [manifests.selected(each["spec"]["selector"]) for each in manifests.all("PodDisruptionBudget")]
    assert sorted(component(one) for (one,) in budgets) == ["api", "frontend"]
    for each in manifests.all("PodDisruptionBudget"):
        replicas = manifests.one("Deployment", each["metadata"]["name"])["spec"]["replicas"]
        assert 0 < each["spec"]["maxUnavailable"] < replicas, "a node could never be drained, or all pods at once"
    for name in ("api", "frontend"):
        keys = [each["topologyKey"] for each in manifests.pod(name)["topologySpreadConstraints"]]
        assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def ports_are_those_that_programs_listen_on(manifests: Manifests) -> None:
    settings = manifests.settings()
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


def probes_mean_something(manifests: Manifests) -> None:
    for each in manifests.all("Deployment"):
        own = container(each["spec"]["template"]["spec"])
        port = "http" if component(each) in {"api", "frontend"} else "metrics"
        alive, ready = own["livenessProbe"]["httpGet"], own["readinessProbe"]["httpGet"]
        assert (alive["port"], ready["port"]) == (port, port)
        if component(each) != "frontend":
            assert (alive["path"], ready["path"]) == ("/healthz", "/readyz")
            assert own["startupProbe"]["failureThreshold"] * own["startupProbe"]["periodSeconds"] >= 60
    for pod in manifests.pods("render"):
        slow = container(pod)["startupProbe"]
        assert slow["httpGet"]["path"] == "/readyz"
        assert slow["failureThreshold"] * slow["periodSeconds"] >= 900, "a model may take this long to load"


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
                (port,) = manifests.one("Service", "api")["spec"]["ports"]
                given = manifests.variables(each["spec"]["template"]["spec"])
                assert given == {"API": f"momalisa-api.momalisa.svc.cluster.local:{port['port']}"}
            case other:
                pytest.fail(f"{other} is unknown")
        image = {"frontend": "frontend", "weights": "worker", **dict.fromkeys(WORKERS, "worker")}
        expected = rf"/momalisa-{image.get(component(each), 'api')}{'(-cpu)?' if _has_no_gpu(own) else ''}[:@]"
        assert re.search(expected, own["image"]), own["image"]
        assert ("-cpu@" in own["image"]) == (manifests.values == "traefik" and component(each) in WORKERS)


def _has_no_gpu(own: Object) -> bool:
    return "nvidia.com/gpu" not in own["resources"]["limits"]


def pods_stop_in_the_time_that_they_are_given(manifests: Manifests) -> None:
    for kind in WORKERS:
        for pod in manifests.pods(kind):
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
    if manifests.values != "bare":
        assert "envFrom" not in container(manifests.pod("migrate")), "a Job cannot be changed, and settings change"


def containers_are_confined(manifests: Manifests) -> None:
    accounts = [each["metadata"]["name"] for each in manifests.all("ServiceAccount")] or ["existing"]
    for each in manifests.workloads():
        pod = each["spec"]["template"]["spec"]
        assert [pod["serviceAccountName"]] == accounts
        assert pod["automountServiceAccountToken"] is False, "its folder would lie in the one of the secrets"
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert (context["runAsUser"], context["runAsGroup"]) == (10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"name": "tmp", "mountPath": "/tmp"} in container(pod)["volumeMounts"]  # noqa: S108
        for own in (*pod["containers"], *pod.get("initContainers", [])):
            assert own["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            resources = own["resources"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"])
            assert {"memory", "ephemeral-storage"} <= set(resources["limits"])


CHECKS: tuple[Check, ...] = (
    selectors_find_what_they_mean,
    pods_are_spread_and_few_are_evicted,
    ports_are_those_that_programs_listen_on,
    probes_mean_something,
    commands_are_those_of_the_code,
    pods_stop_in_the_time_that_they_are_given,
    updates_lose_nothing,
    containers_are_confined,
)


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("check", CHECKS)
def test_workloads_are_right(check: Check, values: str) -> None:
    check(rendered(values))


FAULTS: tuple[tuple[Check, Fault], ...] = (
    (selectors_find_what_they_mean, put("Service", "api", f"spec.selector.{COMPONENT_IN_PATH}", "web")),
    (
        selectors_find_what_they_mean,
        put("Deployment", "api", "spec.template.metadata.labels.app~kubernetes~io/instance", "other"),
    ),
    (
        pods_are_spread_and_few_are_evicted,
        put("PodDisruptionBudget", "api", f"spec.selector.matchLabels.{COMPONENT_IN_PATH}", "web"),
    ),
    (pods_are_spread_and_few_are_evicted, put("PodDisruptionBudget", "api", "spec.maxUnavailable", 2)),
    (
        pods_are_spread_and_few_are_evicted,
        put("Deployment", "api", f"{POD}.topologySpreadConstraints.0.topologyKey", "rack"),
    ),
    (ports_are_those_that_programs_listen_on, put("Service", "api", "spec.ports.0.port", 80)),
    (
        ports_are_those_that_programs_listen_on,
        put("Deployment", "render-main", f"{MAIN}.ports.0.containerPort", 9090),
    ),
    (ports_are_those_that_programs_listen_on, put("ConfigMap", "settings", "data.METRICS_PORT", "9101")),
    (probes_mean_something, put("Deployment", "render-main", f"{MAIN}.readinessProbe.httpGet.path", "/healthz")),
    (probes_mean_something, put("Deployment", "api", f"{MAIN}.livenessProbe.httpGet.path", "/readyz")),
    (probes_mean_something, put("Deployment", "render-main", f"{MAIN}.startupProbe.failureThreshold", 10)),
    (commands_are_those_of_the_code, put("Deployment", "render-main", f"{MAIN}.command.3", "rendering")),
    (commands_are_those_of_the_code, put("Deployment", "reconciler", f"{MAIN}.command.3", "reconcil")),
    (commands_are_those_of_the_code, put("Deployment", "assemble", f"{MAIN}.image", "momalisa-api:1")),
    (commands_are_those_of_the_code, put("Deployment", "frontend", f"{MAIN}.env.0.value", "api:8000")),
    (
        pods_stop_in_the_time_that_they_are_given,
        put("Deployment", "render-main", f"{POD}.terminationGracePeriodSeconds", 30),
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
    (containers_are_confined, put("Deployment", "api", f"{POD}.automountServiceAccountToken", True)),
    (containers_are_confined, put("Deployment", "frontend", f"{POD}.securityContext.runAsUser", 0)),
    (containers_are_confined, put("Deployment", "assemble", f"{MAIN}.resources.limits.memory", None)),
)


@pytest.mark.parametrize(("check", "fault"), FAULTS)
def test_each_check_finds_a_fault(check: Check, fault: Fault) -> None:
    finds(check, fault)


def test_every_check_is_checked() -> None:
    assert {check for check, _ in FAULTS} == set(CHECKS)


def test_an_upgrade_migrates_before_anything_else_changes() -> None:
    def migrations(*arguments: str) -> dict[str, dict[str, str]]:
        objects = parsed(template(*arguments))
        return {
            each["metadata"]["name"]: each["metadata"].get("annotations", {})
            for each in objects
            if each["kind"] == "Job"
        }

    ((first, hooks),) = migrations().items()
    assert hooks == {}, "what a hook before the installation needs would not be there"
    ((again, hooks),) = migrations("--is-upgrade").items()
    assert again == first
    assert hooks == {
        "helm.sh/hook": "pre-upgrade",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }, "the old pods serve on while it runs, and a failed one is tried again by the next upgrade"
    ((newer, _),) = migrations("--is-upgrade", "--set", "image.tag=0.2.0").items()
    assert newer != first


def test_two_releases_in_a_namespace_do_not_meet() -> None:
    def named(release: str) -> set[tuple[str, str]]:
        values = Path(__file__).parent / "values" / "gke.yaml"
        objects = parsed(template("--values", values, release=release))
        return {(each["kind"], each["metadata"]["name"]) for each in objects}

    assert not named("spring") & named("autumn")
    assert ("Deployment", "spring-momalisa-api") in named("spring")
