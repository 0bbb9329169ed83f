"""What Helm, Kubernetes and each operator say of the chart's objects: strictly, unknown fields included."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.infra.kubernetes.chart import (
    CHART,
    KUBERNETES,
    MAIN,
    POD,
    SETS,
    TOOLS,
    VALUES,
    Check,
    Fault,
    Manifests,
    Object,
    definitions,
    finds,
    helm,
    put,
    rendered,
    template,
)

OPERATORS = {
    *("keda.sh", "gateway.networking.k8s.io", "networking.gke.io", "monitoring.coreos.com", "cert-manager.io"),
}
"""Groups whose objects have schemas in @kubernetes-models."""


def group(each: Object) -> str:
    return str(each["apiVersion"].rpartition("/")[0])


def kubernetes_own_objects_are_valid(manifests: Manifests) -> None:
    defined = {each["spec"]["group"] for each in definitions().values()}
    for each in manifests.objects:
        if group(each) not in OPERATORS | defined:
            _validate(json.dumps(each))


@cache
def _validate(text: str) -> None:
    """Validate an object once, since many are the same in several sets."""
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(text), version, strict=True)


def operators_objects_are_valid(manifests: Manifests) -> None:
    assert _complaints([each for each in manifests.objects if group(each) in OPERATORS]) == []


def _complaints(objects: list[Object]) -> list[str]:
    checked = subprocess.run(
        ["node", Path(__file__).with_name("crds.cjs"), TOOLS],
        input=json.dumps(objects),
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[str] = json.loads(checked.stdout)
    return found


def objects_of_other_definitions_are_valid(manifests: Manifests) -> None:
    for each in manifests.objects:
        if definition := definitions().get(each["kind"]):
            (version,) = definition["spec"]["versions"]
            assert each["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
            try:
                jsonschema.validate(each, _closed(version["schema"]["openAPIV3Schema"]))
            except jsonschema.ValidationError as error:
                pytest.fail(f"{each['kind']}/{each['metadata']['name']}: {error.json_path}: {error.message}")


def _closed(schema: Any) -> Any:
    """Return a schema that refuses fields it does not name, as a strict API server does."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


CHECKS: tuple[Check, ...] = (
    kubernetes_own_objects_are_valid,
    operators_objects_are_valid,
    objects_of_other_definitions_are_valid,
)


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("check", CHECKS)
def test_objects_are_valid(check: Check, values: str) -> None:
    check(rendered(values))


def test_the_oldest_version_is_the_one_that_the_chart_asks_for() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    refused = helm("template", "momalisa", CHART, "--kube-version", "1.29.9")
    assert "chart requires kubeVersion: >=1.30.0-0" in refused.stderr


def test_the_sets_of_values_show_every_kind() -> None:
    kinds = {each["kind"] for values in SETS for each in rendered(values).objects}
    assert len(SETS) >= 10
    assert kinds >= {
        *("Deployment", "Job", "Service", "ConfigMap", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"),
        *("PersistentVolume", "PersistentVolumeClaim", "Ingress", "Issuer", "Gateway", "HTTPRoute"),
        *("GCPBackendPolicy", "HealthCheckPolicy", "ScaledObject", "TriggerAuthentication"),
        *("PodMonitor", "PrometheusRule", *definitions()),
    }


FAULTS: tuple[tuple[Check, Fault], ...] = (
    (kubernetes_own_objects_are_valid, put("Deployment", "api", "spec.replica", 2)),
    (kubernetes_own_objects_are_valid, put("Deployment", "api", f"{MAIN}.image", 7)),
    (kubernetes_own_objects_are_valid, put("Deployment", "api", f"{POD}.restartPolicy", ["Never"])),
    (operators_objects_are_valid, put("ScaledObject", "render-main", "spec.minReplicaCount", "none")),
    (operators_objects_are_valid, put("ScaledObject", "render-main", "spec.coolDownPeriod", 30)),
    (operators_objects_are_valid, put("HTTPRoute", "momalisa", "spec.rules.0.matches.0.path.type", "Prefix")),
    (operators_objects_are_valid, put("TriggerAuthentication", "database", "spec.gcpSecretManager.secret", [])),
    (operators_objects_are_valid, put("GCPBackendPolicy", "api", "spec.default.timeoutSec", "1h")),
    (objects_of_other_definitions_are_valid, put("ComputeClass", "gpu", "spec.priorities.1.flexStart", True)),
    (objects_of_other_definitions_are_valid, put("ComputeClass", "gpu", "spec.priorities.0.zones", ["a"])),
    (objects_of_other_definitions_are_valid, put("Rules", "momalisa", "spec.groups.0.rules.0.expression", "1")),
    (objects_of_other_definitions_are_valid, put("PodMonitoring", "momalisa", "spec.endpoints.0.port", None)),
    (objects_of_other_definitions_are_valid, put("SecretProviderClass", "momalisa", "spec.parameters.a", 1)),
)


@pytest.mark.parametrize(("check", "fault"), FAULTS)
def test_each_check_finds_a_fault(check: Check, fault: Fault) -> None:
    finds(check, fault)


def test_every_check_is_checked() -> None:
    assert {check for check, _ in FAULTS} == set(CHECKS)


@pytest.mark.parametrize("path", VALUES, ids=SETS)
def test_helm_finds_nothing_to_complain_of(path: Path) -> None:
    linted = helm("lint", "--strict", CHART, "--values", path)
    assert linted.returncode == 0, linted.stdout
    assert "[WARNING]" not in linted.stdout


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("ingress.kind=apache", 'ingress.kind must be one of the following: "none", "gateway", "nginx", "generic"'),
        ("ingres.kind=nginx", "Additional property ingres is not allowed"),
        ("render.pools.main.gpus=one", "render.pools.main.gpus: Invalid type. Expected: integer, given: string"),
        ("render.pools.main.gpus=2", "render.pools.main.gpus: Must be less than or equal to 1"),
        ("render.defaults.gpu=1", "Additional property gpu is not allowed"),
        ("image.digests.api=latest", "image.digests.api: Does not match pattern"),
        ("settings.BUCKET=other", 'settings: Property name of "BUCKET" does not match'),
        ("settings.DATABASE_URL=postgresql://me:secret@here/db", 'Property name of "DATABASE_URL" does not match'),
        ("networkPolicy.stores.cidrs={10.0.0.3}", "networkPolicy.stores.cidrs.0: Does not match pattern"),
        ("secrets.provider=gke", "secrets.project: String length must be greater than or equal to 6"),
        ("models.mine.source=bucket", "models.mine: bucket is required"),
        ("models.mine.source=hub", "models.mine: repository is required"),
        ("reconciler.replicas=0", "reconciler.replicas: Must be greater than or equal to 1"),
        ("publicUrl=walks.example.com", "publicUrl: Does not match pattern"),
        # What no schema can say.
        ("model=mona-lisa", 'There is no model "mona-lisa": `models` has momalisa-mini.'),
        ("render.pools.main.model=mona-lisa", 'There is no model "mona-lisa": `models` has momalisa-mini.'),
        ("ingress.kind=generic", "name the controller's namespaces in `ingress.fromNamespaces`"),
        ("ingress.kind=gateway", "name the networks of the Gateway's proxies in `ingress.fromCidrs`"),
        ("ingress.kind=nginx,ingress.tls.secretName=tls", "`ingress.tls` needs `ingress.host`"),
        (
            "ingress.kind=nginx,ingress.host=a.example,ingress.tls.acmeEmail=me@a.example",
            "name the Secret of the certificate in `ingress.tls.secretName`",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_a_sentence(wrong: str, sentence: str) -> None:
    refused = helm("template", "momalisa", CHART, "--set", wrong)
    assert refused.returncode != 0
    assert sentence in refused.stderr


def test_the_values_in_the_readme_are_taken(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), flags=re.DOTALL)
    assert examples
    for each in examples:
        (tmp_path / "values.yaml").write_text(each)
        assert template("--values", tmp_path / "values.yaml")


def test_a_packaged_chart_carries_the_files_that_it_links_to(tmp_path: Path) -> None:
    assert helm("package", CHART, "--destination", tmp_path).returncode == 0
    (package,) = tmp_path.glob("momalisa-*.tgz")
    path = Path(__file__).parent / "values" / "gke.yaml"
    run = helm("template", "momalisa", package, "--namespace", "momalisa", "--values", path)
    assert run.stdout == template("--values", path)
    assert (CHART / "files" / "alerts.yml").is_symlink(), "a copy would grow old"
    assert (CHART / "files" / "dashboards").is_symlink()


def test_every_value_is_in_the_schema_and_in_the_readme() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    text = (CHART / "README.md").read_text()
    table = text[text.index("## Values") :]
    for name, each in values.items():
        assert f"`{name}" in table, name
        if isinstance(each, dict) and name not in {"models", "api", "frontend", "reconciler", "computeClasses"}:
            assert not [one for one in each if f".{one}`" not in table and f"`{one}`" not in table], name
