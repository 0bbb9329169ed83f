"""What is exported, drawn, watched and documented is the same."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from momalisa.settings import ROOT
from momalisa.telemetry import metrics
from momalisa.telemetry.metrics import Metric, name

PROMETHEUS = ROOT / "infra" / "prometheus"
GUIDE = (ROOT / "docs" / "operations.md").read_text()
NAME = re.compile(r"\bmomalisa_[a-z_]+")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
RULES = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
TESTS = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())["tests"]


def samples(metric: Metric) -> set[str]:
    """Return the names under which Prometheus knows a metric."""
    [family] = metric.describe()
    return {family.name + suffix for suffix in SUFFIXES[family.type]}


EXPORTED = set().union(*map(samples, metrics.ALL))


def drawn() -> list[dict[str, Any]]:
    dashboards = (ROOT / "infra" / "grafana" / "dashboards").glob("*.json")
    return [panel for file in dashboards for panel in json.loads(file.read_text())["panels"]]


def test_every_metric_in_dashboards_alerts_and_their_tests_is_exported() -> None:
    queries = [target["expr"] for panel in drawn() for target in panel["targets"]]
    queries += [rule["expr"] for rule in RULES]
    queries += [series["series"] for test in TESTS for series in test["input_series"]]
    named = {found for query in queries for found in NAME.findall(query)}
    assert named <= EXPORTED
    assert len(named) >= len(metrics.ALL)


def test_every_metric_is_drawn() -> None:
    queries = " ".join(target["expr"] for panel in drawn() for target in panel["targets"])
    assert [name(metric) for metric in metrics.ALL if not samples(metric) & set(NAME.findall(queries))] == []


def test_every_metric_is_documented_with_its_labels() -> None:
    for metric in metrics.ALL:
        labels = f"{{{','.join(metric._labelnames)}}}" if metric._labelnames else ""
        assert f"| `{name(metric)}{labels}` |" in GUIDE


def test_no_metric_is_documented_that_is_not_there() -> None:
    names = EXPORTED | {name(metric) for metric in metrics.ALL}
    assert set(NAME.findall(GUIDE)) <= names


def test_every_alert_has_a_heading_that_says_what_to_do_and_how_soon() -> None:
    for rule in RULES:
        words = {"page": "Page.", "ticket": "Ticket."}[rule["labels"]["severity"]]
        assert f"\n### {rule['alert']}\n\n{words} " in GUIDE


def test_every_alert_is_tried_both_ways() -> None:
    tried = [alert for test in TESTS for alert in test["alert_rule_test"]]
    assert {alert["alertname"] for alert in tried if alert["exp_alerts"]} == {rule["alert"] for rule in RULES}
    assert {alert["alertname"] for alert in tried if not alert["exp_alerts"]} == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]])
def test_the_rules_do_what_they_are_for(command: list[str]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here; Debian has it in the package prometheus")
    ran = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_grafana_finds_the_dashboards_and_the_data() -> None:
    provisioning = ROOT / "infra" / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "momalisa.yml").read_text())["providers"]
    assert Path(provider["options"]["path"]).name == "dashboards"
    for panel in drawn():
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["title"]
        assert panel["description"]


def test_labels_without_a_bound_are_on_no_metric() -> None:
    bounded = {"method", "route", "status", "kind", "task", "state", "model"}  # models are those of the operator
    assert {label for metric in metrics.ALL for label in metric._labelnames} <= bounded
