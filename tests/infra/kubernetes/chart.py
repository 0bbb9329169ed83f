"""The chart as Helm renders it for several sets of values, and what its objects say of themselves."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from momalisa.settings import ROOT, Settings

CHART = ROOT / "infra" / "helm" / "momalisa"
TOOLS = ROOT / ".venv" / "kubernetes-tools"
VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
SETS = [path.stem for path in VALUES]
KUBERNETES = ("1.30", "1.37")
"""The oldest version that the chart takes, and the newest that there is a schema of."""

COMPONENT = "app.kubernetes.io/component"
INVALID = (AssertionError, ValueError, KeyError, kubernetes_validate.ValidationError, pytest.fail.Exception)
"""What a check raises."""

Object = dict[str, Any]


@dataclass
class Manifests:
    """The objects of a release called momalisa in the namespace momalisa."""

    values: str
    """The name of the set of values."""
    objects: list[Object]

    def all(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """Return an object by the end of its name, `api` for momalisa-api, or `momalisa` for that itself."""
        found = [each for each in self.all(kind) if each["metadata"]["name"] in {name, f"momalisa-{name}"}]
        assert len(found) == 1, f"{len(found)} × {kind}/{name}"
        return found[0]

    def workloads(self) -> list[Object]:
        return self.all("Deployment", "Job")

    def pods(self, name: str) -> list[Object]:
        """Return the specifications of the pods of a part; there are several pools of render workers."""
        found = [each["spec"]["template"]["spec"] for each in self.workloads() if component(each) == name]
        assert found, f"no workload is {name}"
        return found

    def pod(self, name: str) -> Object:
        """Return the specification of the pods of the only workload of a part."""
        (found,) = self.pods(name)
        return found

    def selected(self, selector: Object) -> list[Object]:
        """Return the workloads whose pods a selector matches."""
        return [each for each in self.workloads() if matches(selector, labels(each))]

    def settings(self) -> dict[str, str]:
        data: dict[str, str] = self.one("ConfigMap", "settings")["data"]
        return data

    def variables(self, pod: Object) -> dict[str, str]:
        """Return the environment of a pod's container."""
        own = container(pod)
        given: dict[str, str] = {}
        for source in own.get("envFrom", []):
            given |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        return given | {variable["name"]: variable["value"] for variable in own.get("env", [])}


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


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Helm, which needs no cluster for what is asked of it here."""
    return subprocess.run([TOOLS / "helm" / "helm", *arguments], check=False, capture_output=True, text=True)


def template(*arguments: str | Path, release: str = "momalisa") -> str:
    """Render the chart as a release in the namespace momalisa."""
    run = helm("template", release, CHART, "--namespace", "momalisa", *arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


def parsed(text: str) -> list[Object]:
    """Return the objects of a stream of YAML; the C parser takes a tenth of the time."""
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


@cache
def _rendered(values: str) -> str:
    return template("--values", Path(__file__).parent / "values" / f"{values}.yaml")


@cache
def _serialized(values: str) -> str:
    return json.dumps(parsed(_rendered(values)))


def rendered(values: str) -> Manifests:
    """Return the objects for a set of values, which are the caller's to change."""
    return Manifests(values, json.loads(_serialized(values)))


@cache
def definitions() -> dict[str, Object]:
    """Return our own definitions of kinds, by kind."""
    found = yaml.safe_load_all(Path(__file__).with_name("definitions.yaml").read_text())
    return {each["spec"]["names"]["kind"]: each for each in found}


def loaded(given: dict[str, str]) -> Settings:
    """Return the settings of a process with an environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        return Settings()


# Checks are checked: each finds what was broken for it.

Check = Callable[[Manifests], None]
Fault = Callable[[Manifests], None]


def put(kind: str, name: str, path: str, value: Any) -> Fault:
    """Return what changes one field of an object; a value of None removes it. In the path, `~` is a dot."""

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


def setting(name: str, value: str | None) -> Fault:
    """Return what changes a setting, or removes it."""

    def change(manifests: Manifests) -> None:
        if value is None:
            del manifests.settings()[name]
        else:
            manifests.settings()[name] = value

    return change


def without(kind: str, name: str) -> Fault:
    """Return what removes an object."""

    def change(manifests: Manifests) -> None:
        manifests.objects.remove(manifests.one(kind, name))

    return change


def finds(check: Check, fault: Fault, values: str = "gke") -> None:
    """Assert that a check accepts a set of values, and refuses it with a fault."""
    check(rendered(values))
    broken = rendered(values)
    fault(broken)
    with pytest.raises(INVALID):
        check(broken)


POD = "spec.template.spec"
MAIN = f"{POD}.containers.0"
