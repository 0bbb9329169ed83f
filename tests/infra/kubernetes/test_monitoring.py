"""Prometheus reads every part, and has the alerts and the dashboard of the other deployments."""

import json

import pytest
import yaml

from momalisa.domain.states import ChunkKind
from momalisa.settings import ROOT
from tests.infra.kubernetes.chart import (
    SETS,
    Check,
    Fault,
    Manifests,
    component,
    finds,
    parsed,
    ports,
    put,
    rendered,
    template,
)

ALERTS = ROOT / "infra" / "prometheus" / "alerts.yml"
DASHBOARDS = ROOT / "infra" / "grafana" / "dashboards"
WATCHED = {"api", "reconciler", *(kind.value for kind in ChunkKind)}


def every_part_is_read(manifests: Manifests) -> None:
    monitors = manifests.all("PodMonitoring", "PodMonitor")
    assert len(monitors) == (1 if manifests.values.startswith("gke") or manifests.values == "traefik" else 0)
    for each in monitors:
        watched = manifests.selected(each["spec"]["selector"])
        assert {component(one) for one in watched} == WATCHED
        (endpoint,) = each["spec"].get("endpoints") or each["spec"]["podMetricsEndpoints"]
        assert all(endpoint["port"] in ports(one) for one in watched)


def series_are_named_as_the_alerts_expect(manifests: Manifests) -> None:
    assert 'up{job="momalisa"}' in ALERTS.read_text()
    for each in manifests.all("PodMonitoring"):
        assert each["metadata"]["name"] == "momalisa", "it is the job"
        assert each["spec"]["targetLabels"]["fromPod"] == [{"from": "app.kubernetes.io/component", "to": "part"}]
    for each in manifests.all("PodMonitor"):
        relabelings = {one["targetLabel"]: one for one in each["spec"]["podMetricsEndpoints"][0]["relabelings"]}
        assert relabelings["job"]["replacement"] == "momalisa"
        assert relabelings["part"]["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_component"]


def alerts_are_those_of_the_file(manifests: Manifests) -> None:
    expected = [
        {"name": group["name"], "rules": group["rules"]} for group in yaml.safe_load(ALERTS.read_text())["groups"]
    ]
    for each in manifests.all("Rules", "PrometheusRule"):
        found = [{"name": group["name"], "rules": group["rules"]} for group in each["spec"]["groups"]]
        assert found == expected


def dashboards_are_those_of_the_folder(manifests: Manifests) -> None:
    if manifests.all("PodMonitoring", "PodMonitor"):
        found = manifests.one("ConfigMap", "dashboards")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert {name: json.loads(each) for name, each in found["data"].items()} == {
            path.name: json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")
        }


CHECKS: tuple[Check, ...] = (
    every_part_is_read,
    series_are_named_as_the_alerts_expect,
    alerts_are_those_of_the_file,
    dashboards_are_those_of_the_folder,
)


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("check", CHECKS)
def test_monitoring_is_right(check: Check, values: str) -> None:
    check(rendered(values))


FAULTS: tuple[tuple[Check, Fault, str], ...] = (
    (every_part_is_read, put("PodMonitoring", "momalisa", "spec.endpoints.0.port", "prom"), "gke"),
    (
        every_part_is_read,
        put("PodMonitor", "momalisa", "spec.selector.matchExpressions.0.values", ["api"]),
        "traefik",
    ),
    (series_are_named_as_the_alerts_expect, put("PodMonitoring", "momalisa", "metadata.name", "momalisa-x"), "gke"),
    (
        series_are_named_as_the_alerts_expect,
        put("PodMonitor", "momalisa", "spec.podMetricsEndpoints.0.relabelings.0.replacement", "art"),
        "traefik",
    ),
    (alerts_are_those_of_the_file, put("Rules", "momalisa", "spec.groups.0.rules.0.expr", "vector(1)"), "gke"),
    (dashboards_are_those_of_the_folder, put("ConfigMap", "dashboards", "data.momalisa~json", "{}"), "gke"),
)


@pytest.mark.parametrize(("check", "fault", "values"), FAULTS)
def test_each_check_finds_a_fault(check: Check, fault: Fault, values: str) -> None:
    finds(check, fault, values)


def test_every_check_is_checked() -> None:
    assert {check for check, _, _ in FAULTS} == set(CHECKS)


def test_alerts_and_dashboard_of_a_release_are_about_its_own_job() -> None:
    objects = parsed(template("--set", "monitoring.kind=operator", "--set", "fullnameOverride=spring"))
    text = json.dumps([each for each in objects if each["kind"] in {"PrometheusRule", "ConfigMap"}])
    plain = text.replace("\\", "")
    assert 'up{job="spring"}' in plain
    assert 'job="momalisa"' not in plain
