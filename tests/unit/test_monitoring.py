"""Exported metrics, dashboards, alerts and documentation agree."""

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
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
TEST_FILES = ("alerts.test.yml", "objectives.test.yml")
TESTS = [test for file in TEST_FILES for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]]
RUNBOOK = "https://github.com/momalisa/momalisa/blob/main/docs/operations.md#"


def samples(metric: Metric) -> set[str]:
    """Return the names of a metric's series in Prometheus."""
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


def test_no_unknown_metric_is_documented() -> None:
    names = EXPORTED | {name(metric) for metric in metrics.ALL}
    assert set(NAME.findall(GUIDE)) <= names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_leads_to_a_section_that_says_how_soon_and_what_to_type(rule: dict[str, Any]) -> None:
    about = rule["annotations"]
    assert about.keys() == {"summary", "description", "runbook_url"}
    assert about["runbook_url"] == RUNBOOK + rule["alert"].lower()
    words = {"page": "Page.", "ticket": "Ticket."}[rule["labels"]["severity"]]
    heading = f"\n### {rule['alert']}\n\n"
    assert heading in GUIDE
    section = GUIDE.split(heading)[1].split("\n## ")[0].split("\n### ")[0]
    assert section.startswith(f"{words} ")
    assert re.search("^```sh$", section, re.MULTILINE), "it does not say what to type"


def test_no_section_is_about_an_alert_that_is_not_there() -> None:
    sections = re.findall("^### (.*)$", GUIDE.split("\n## Alerts\n")[1].split("\n## ")[0], re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in ALERTS)


def test_every_series_that_is_recorded_is_used_and_there_is_no_other() -> None:
    queries = [rule["expr"] for rule in ALERTS] + [
        target["expr"] for panel in drawn() for target in panel["targets"]
    ]
    assert {found for query in queries for found in re.findall(r"\bslo:[a-z0-9_:]+", query)} == RECORDS


def test_the_objectives_in_the_guide_are_those_of_the_rules() -> None:
    budgets = {rule["labels"]["slo"]: rule["expr"] for rule in RULES if rule.get("record") == "slo:error_budget"}
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([0-9.]+) % ", GUIDE, re.MULTILINE))
    assert {slo: f"vector({round(1 - float(share) / 100, 6)})" for slo, share in rows.items()} == budgets


def test_every_alert_is_tested_both_ways() -> None:
    tried = [alert for test in TESTS for alert in test["alert_rule_test"]]
    assert {alert["alertname"] for alert in tried if alert["exp_alerts"]} == {rule["alert"] for rule in ALERTS}
    assert {alert["alertname"] for alert in tried if not alert["exp_alerts"]} == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", *TEST_FILES]])
def test_the_alert_rules_pass_their_tests(command: list[str]) -> None:
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
    bounded = {"method", "route", "status", "kind", "task", "state", "version", "revision"}
    bounded |= {"model"}  # those that the operator runs
    assert {label for metric in metrics.ALL for label in metric._labelnames} <= bounded
