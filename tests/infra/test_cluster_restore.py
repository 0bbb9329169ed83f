"""A cluster is backed up and restored by the commands of docs/operations.md.

Kubernetes' API is in memory and there are no pods; kubectl and Helm are the real ones. In place of gcloud a script
writes down what it is called for. That an upgrade migrates first, by a hook, is for `kubernetes/test_workloads.py`.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from momalisa.local.stack import LocalStack
from tests.infra import cluster as kubernetes
from tests.infra.cluster import Cluster
from tests.infra.kubernetes.chart import CHART, TOOLS, VALUES, parsed, template
from tests.operations import commands

PAUSED = "autoscaling.keda.sh/paused-replicas"
(VALUES_OF_GKE,) = (path for path in VALUES if path.stem == "gke")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster that knows the kinds of the chart."""
    with kubernetes.listening() as cluster:
        objects = parsed(template("--values", VALUES_OF_GKE))
        cluster.kinds |= {(each["apiVersion"], each["kind"]) for each in objects}
        yield cluster


@pytest.fixture
def variables(cluster: Cluster, services: LocalStack, tmp_path: Path) -> dict[str, str]:
    """The environment of an operator who has a shell and the cluster's configuration."""
    programs = tmp_path / "bin"
    programs.mkdir()
    # No pod ever starts, so nothing can be waited for; and this API describes no schema.
    arguments = '$(echo "$@" | sed "s/--wait//") --disable-openapi-validation --no-hooks'
    helm = f"#!/bin/sh\nexec {TOOLS}/helm/helm {arguments}\n"
    gcloud = f'#!/bin/sh\necho "$@" >> {tmp_path}/gcloud\n'
    for name, text in {"helm": helm, "gcloud": gcloud}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    entry = {"name": "momalisa", "cluster": {"server": cluster.url}}
    context = {"name": "momalisa", "context": {"cluster": "momalisa", "user": ""}}
    configuration = {"clusters": [entry], "contexts": [context], "current-context": "momalisa"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **configuration}))
    database = services.variables["DATABASE_URL"].replace("+psycopg", "")
    return {
        "PATH": os.pathsep.join([str(programs), str(TOOLS / "kubectl"), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "NO_PROXY": "*",
        # It would keep releases in the cluster as protobuf, which this API does not read.
        "HELM_DRIVER": "sql",
        "HELM_DRIVER_SQL_CONNECTION_STRING": f"{database}&sslmode=disable",
        "GOOGLE_CLOUD_PROJECT": "art-project",
        "INSTANCE": "momalisa",
        "BACKUP": "1234",
        "TIME": "2026-01-02T03:04:05Z",
    }


def type_in(variables: dict[str, str], line: str) -> None:
    """Run a line in infra/ansible, where the shell of a deployment is."""
    run = subprocess.run(
        ["bash", "-euc", line],
        cwd=CHART.parents[1] / "ansible",
        env=variables,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def replicas(cluster: Cluster) -> dict[str, int]:
    """Return the number of pods of each workload; a new one for which none is said has one."""
    return {
        each["metadata"]["name"]: each["spec"].get("replicas", 1)
        for each in cluster.objects.values()
        if each["kind"] == "Deployment"
    }


def scaled_by_keda(cluster: Cluster) -> set[str]:
    """Return the workloads that KEDA starts, also from zero."""
    scaled = [each for each in cluster.objects.values() if each["kind"] == "ScaledObject"]
    return {each["spec"]["scaleTargetRef"]["name"] for each in scaled}


def paused(cluster: Cluster) -> set[str | None]:
    return {
        each["metadata"].get("annotations", {}).get(PAUSED)
        for each in cluster.objects.values()
        if each["kind"] == "ScaledObject"
    }


def test_everything_is_stopped_before_a_backup_is_restored_and_started_afterwards(
    cluster: Cluster, variables: dict[str, str], tmp_path: Path
) -> None:
    type_in(variables, f"helm install momalisa ../helm/momalisa --namespace momalisa --values {VALUES_OF_GKE}")
    before = replicas(cluster)
    assert {"momalisa-api", "momalisa-reconciler"} < before.keys() - scaled_by_keda(cluster)
    assert scaled_by_keda(cluster) == {"momalisa-assemble", "momalisa-render-main"}

    type_in(variables, commands("Back up on GKE"))
    restored_by = {"gcloud sql backups restore": False, "helm upgrade": False}
    for line in commands("Restore on GKE").splitlines():
        for command in restored_by:
            if line.startswith(command):
                assert set(replicas(cluster).values()) == {0}
                assert paused(cluster) == {"0"}
                restored_by[command] = True
        type_in(variables, line)
    assert all(restored_by.values())
    assert replicas(cluster) == before | dict.fromkeys(scaled_by_keda(cluster), 0)
    assert paused(cluster) == {None}

    updated, created, listed, restored, objects = (tmp_path / "gcloud").read_text().splitlines()
    bucket = "gs://art-project-momalisa-cluster"
    assert updated.startswith(f"storage buckets update {bucket} ")
    assert created.startswith("sql backups create --instance momalisa ")
    assert listed == "sql backups list --instance momalisa"
    assert restored == "sql backups restore 1234 --restore-instance momalisa"
    assert objects == f"storage restore {bucket}/** --deleted-after-time 2026-01-02T03:04:05Z --async"
