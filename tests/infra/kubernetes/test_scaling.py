"""Render pools, their GPUs and weights, and what KEDA counts."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind
from momalisa.queue import leases
from momalisa.walks import service
from tests.infra.kubernetes.chart import (
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
    loaded,
    parsed,
    put,
    rendered,
    setting,
    template,
)

POOLS = {"pools": {"render-l4": "stable-diffusion-v1-5", "render-h100": "sdxl"}}
"""The model of each pool, by the set of values; of the others:"""
MODELS = {
    **dict.fromkeys(("gke", "gke-without-domain", "gke-nginx", "gke-nginx-tls"), "stable-diffusion-v1-5"),
    "hub": "stabilityai/stable-diffusion-xl-base-1.0",
    "claim": "my-model",
}
BUNDLED = "momalisa-mini"


def pools(manifests: Manifests) -> dict[str, str]:
    """Return the names of the pools that there must be, each with its model."""
    return POOLS.get(manifests.values) or {"render-main": MODELS.get(manifests.values, BUNDLED)}


def each_kind_of_worker_scales_on_its_own_work(manifests: Manifests) -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in manifests.all("ScaledObject")}
    workers = {
        each["metadata"]["name"]: each
        for each in manifests.all("Deployment")
        if component(each) in {kind.value for kind in ChunkKind}
    }
    if not scaled:
        assert all(each["spec"]["replicas"] >= 1 for each in workers.values())
        return
    assert set(scaled) == set(workers)
    for name, each in scaled.items():
        worker = workers[name]
        assert "replicas" not in worker["spec"], "each upgrade would undo KEDA's work"
        for trigger in each["triggers"]:
            manifests.one("TriggerAuthentication", trigger["authenticationRef"]["name"])
            assert trigger["type"] == "postgresql"
            assert re.findall(r"kind = '(\w+)'", trigger["metadata"]["query"]) == [component(worker)]
            assert "'leased'" in trigger["metadata"]["query"], "a busy worker would be shut down for an empty list"
        # With what is leased and a target of 1, there are as many workers asked for as are busy.
        assert any(trigger["metadata"]["targetQueryValue"] == "1" for trigger in each["triggers"])
        assert each["minReplicaCount"] <= each["maxReplicaCount"]
    for name, model in pools(manifests).items():
        each = scaled[f"momalisa-{name}"]
        assert each["maxReplicaCount"] > 1
        for trigger in each["triggers"]:
            assert f"model = '{model}'" in trigger["metadata"]["query"], "others' chunks are not for these workers"
    (authentication,) = manifests.all("TriggerAuthentication")
    match authentication["spec"]:
        case {"gcpSecretManager": {"secrets": [{"parameter": "connection", "id": "momalisa-keda-connection"}]}}:
            assert manifests.all("SecretProviderClass")
        case {"secretTargetRef": [{"parameter": "connection", "name": name, "key": "keda_connection"}]}:
            (volume,) = [each for each in manifests.pod("api")["volumes"] if each["name"] == "secrets"]
            assert volume["projected"]["sources"][0]["secret"]["name"] == name
        case other:
            pytest.fail(f"{other} is unknown")


def rendering_happens_on_gpus_with_weights_that_are_there(manifests: Manifests) -> None:
    for name, model in pools(manifests).items():
        template = manifests.one("Deployment", name)["spec"]["template"]
        pod = template["spec"]
        own, given = container(pod), manifests.variables(pod)
        resources = own["resources"]
        if manifests.values in {"standalone", "traefik", "claim", "bare"}:
            assert given["DEVICE"] == "cpu"
            assert "nvidia.com/gpu" not in resources["limits"]
        else:
            assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
            assert "nvidia.com/gpu" in [each["key"] for each in pod["tolerations"]]
            assert given["DEVICE"] == "cuda", "it would render on the processor"
            assert pod["nodeSelector"]
        assert loaded(given).model_name == model
        if manifests.values != "hub":
            assert given["HF_HUB_OFFLINE"] == "1", "no hub is asked"
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounts = {each["name"]: each for each in own["volumeMounts"]}
        match volumes.get("weights"):
            case None:
                assert model == BUNDLED
                assert "MODEL" not in given
            case {"emptyDir": {"sizeLimit": size}}:
                assert given["HF_HOME"] == mounts["weights"]["mountPath"]
                assert resources["limits"]["ephemeral-storage"] == size, "the node evicts who takes more"
            case volume:
                assert mounts["weights"]["readOnly"] is True
                assert Path(given["MODEL"]).is_relative_to(mounts["weights"]["mountPath"])
                _is_read_only(manifests, volume)
                if "claim" not in manifests.values:
                    assert template["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"


def _is_read_only(manifests: Manifests, volume: Object) -> None:
    """Assert that a volume of weights is there, and is only read."""
    match volume:
        case {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}}:
            pass
        case {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}:
            assert manifests.values == "claim"
        case {"persistentVolumeClaim": {"claimName": str(name), "readOnly": True}}:
            claim = manifests.one("PersistentVolumeClaim", name)
            real = manifests.one("PersistentVolume", claim["spec"]["volumeName"])["spec"]
            assert real["claimRef"] == {"namespace": "momalisa", "name": name}
            assert real["storageClassName"] == claim["spec"]["storageClassName"] == "gcsfusecsi-serving"
            assert real["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
            assert real["csi"]["readOnly"] is True
            assert real["accessModes"] == claim["spec"]["accessModes"]
        case other:
            pytest.fail(f"{other} is unknown")


def all_parts_call_the_model_of_new_walks_the_same(manifests: Manifests) -> None:
    first = next(iter(pools(manifests).values()))
    # The API and assembly have no weights, and must know the model by the same name all the same.
    names = {
        loaded(manifests.variables(manifests.pod(part))).model_name for part in ("api", "assemble", "reconciler")
    }
    assert names == {first}


def weights_are_copied_where_they_are_read(manifests: Manifests) -> None:
    jobs = [each for each in manifests.all("Job") if component(each) == "weights"]
    assert len(jobs) == (1 if manifests.values == "gke" else 0)
    for each in jobs:
        pod = each["spec"]["template"]["spec"]
        given = manifests.variables(manifests.pod("render"))
        assert container(pod)["args"][1] == given["MODEL"]
        buckets = {
            volume["csi"]["volumeAttributes"]["bucketName"]
            for one in (pod, manifests.pod("render"))
            for volume in one["volumes"]
            if volume["name"] == "weights"
        }
        assert buckets == {"art-project-momalisa-weights"}
        (waiting,) = manifests.pod("render")["initContainers"]
        assert waiting["env"] == [{"name": "MODEL", "value": given["MODEL"]}]


def nodes_are_asked_for_in_order_and_in_all_zones(manifests: Manifests) -> None:
    classes = {each["metadata"]["name"]: each["spec"] for each in manifests.all("ComputeClass")}
    wanted = {
        pod["nodeSelector"]["cloud.google.com/compute-class"]
        for pod in manifests.pods("render")
        if "cloud.google.com/compute-class" in pod.get("nodeSelector", {})
    }
    assert wanted == set(classes)
    for spec in classes.values():
        assert spec["nodePoolAutoCreation"] == {"enabled": True}
        assert spec["nodePoolConfig"]["imageStreaming"] == {"enabled": True}
        assert spec["whenUnsatisfiable"] == "DoNotScaleUp", "any other machine has no GPU"
        assert spec["priorityDefaults"]["location"]["zones"]
        assert spec["priorities"][-1].get("spot") is False, "the last resort is on demand"
        for each in spec["priorities"]:
            assert each["gpu"]["driverVersion"], "without it, none is installed"
    if manifests.values.startswith("gke"):
        (spec,) = classes.values()
        assert len(spec["priorityDefaults"]["location"]["zones"]) == 3
        assert [(each.get("spot"), each.get("flexStart")) for each in spec["priorities"]] == [
            (True, None),
            (None, {"enabled": True}),
            (False, None),
        ]


CHECKS: tuple[Check, ...] = (
    each_kind_of_worker_scales_on_its_own_work,
    rendering_happens_on_gpus_with_weights_that_are_there,
    all_parts_call_the_model_of_new_walks_the_same,
    weights_are_copied_where_they_are_read,
    nodes_are_asked_for_in_order_and_in_all_zones,
)


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("check", CHECKS)
def test_workers_and_nodes_are_right(check: Check, values: str) -> None:
    check(rendered(values))


_SCALED = "spec.triggers.0.metadata.query"
FAULTS: tuple[tuple[Check, Fault, str], ...] = (
    (each_kind_of_worker_scales_on_its_own_work, put("Deployment", "render-main", "spec.replicas", 1), "gke"),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put("ScaledObject", "assemble", "spec.scaleTargetRef.name", "momalisa-api"),
        "gke",
    ),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put(
            *("ScaledObject", "render-main", _SCALED),
            "SELECT count(*) FROM chunks WHERE kind = 'render' AND status = 'queued'",
        ),
        "gke",
    ),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put(
            *("ScaledObject", "render-h100", _SCALED),
            "SELECT count(*) FROM chunks WHERE kind = 'render' AND status IN ('queued', 'leased')",
        ),
        "pools",
    ),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put("ScaledObject", "render-main", "spec.triggers.1", None),
        "gke",
    ),
    (
        each_kind_of_worker_scales_on_its_own_work,
        put("TriggerAuthentication", "database", "spec.secretTargetRef.0.name", "momalisa"),
        "traefik",
    ),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        setting("MODEL", "/weights/stable-diffusion-v1-5"),
        "gke",
    ),
    (rendering_happens_on_gpus_with_weights_that_are_there, setting("MODEL", "org/stable-diffusion-v1-5"), "gke"),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        put("Deployment", "render-main", f"{MAIN}.env.3.value", "0"),
        "gke",
    ),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        put("Deployment", "render-main", f"{POD}.tolerations", []),
        "gke",
    ),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        put("PersistentVolume", "momalisa-momalisa-sdxl", "spec.csi.readOnly", False),
        "pools",
    ),
    (
        rendering_happens_on_gpus_with_weights_that_are_there,
        put("Deployment", "render-main", f"{MAIN}.resources.limits.ephemeral-storage", "4Gi"),
        "hub",
    ),
    (all_parts_call_the_model_of_new_walks_the_same, setting("MODEL", None), "gke"),
    (
        weights_are_copied_where_they_are_read,
        put("Deployment", "render-main", f"{POD}.volumes.1.csi.volumeAttributes.bucketName", "momalisa-weights"),
        "gke",
    ),
    (
        nodes_are_asked_for_in_order_and_in_all_zones,
        put("ComputeClass", "gpu", "spec.priorities.2", None),
        "gke",
    ),
    (
        nodes_are_asked_for_in_order_and_in_all_zones,
        put("ComputeClass", "gpu", "metadata.name", "momalisa-other"),
        "gke",
    ),
)


@pytest.mark.parametrize(("check", "fault", "values"), FAULTS)
def test_each_check_finds_a_fault(check: Check, fault: Fault, values: str) -> None:
    finds(check, fault, values)


def test_every_check_is_checked() -> None:
    assert {check for check, _, _ in FAULTS} == set(CHECKS)


@pytest.fixture
def queries() -> list[tuple[str, str]]:
    """The queries of KEDA for the bundled model and another, each with the name of what it scales."""
    objects = parsed(
        template(
            *("--set", "autoscaling.enabled=true", "--set", "render.pools.other.model=other"),
            *("--set", "models.other.source=hub", "--set", "models.other.repository=org/other"),
        )
    )
    return [
        (each["metadata"]["name"].removeprefix("momalisa-"), trigger["metadata"]["query"])
        for each in objects
        if each["kind"] == "ScaledObject"
        for trigger in each["spec"]["triggers"]
    ]


@pytest.mark.parametrize(
    ("folder", "name"),
    [("sd/dream.safetensors", "dream"), ("dream.v9.ckpt", "dream.v9"), ("sdxl-1.0", "sdxl-1.0")],
)
def test_keda_counts_by_the_name_that_settings_give_a_model(folder: str, name: str) -> None:
    query, own = _counted("--set", f"models.m.folder={folder}")
    assert f"model = '{name}'" in query
    assert own == name


def test_loras_need_the_name_of_their_model_for_autoscaling() -> None:
    loras = ("--set", "models.m.folder=sdxl", "--set", "render.pools.main.env.LORAS=/models/ink.safetensors:0.8")
    with pytest.raises(AssertionError, match=r"set `models\.m\.name`, such as sdxl\+ink:0\.8"):
        _counted(*loras)
    query, own = _counted(*loras, "--set", "models.m.name=sdxl+ink:0.8")
    assert f"model = '{own}'" in query


def _counted(*arguments: str) -> tuple[str, str]:
    """Return the query by which KEDA scales a pool with the model `m`, and the name that its workers call it by."""
    model = ("model=m", "models.m.source=claim", "models.m.claim=weights", "autoscaling.enabled=true")
    manifests = Manifests("", parsed(template(*arguments, *(word for each in model for word in ("--set", each)))))
    query = manifests.one("ScaledObject", "render-main")["spec"]["triggers"][0]["metadata"]["query"]
    return query, loaded(manifests.variables(manifests.pod("render"))).model_name


@pytest.mark.usefixtures("services")
def test_kedas_queries_count_what_waits_and_what_is_at_work(
    queries: list[tuple[str, str]], spec: Callable[..., WalkSpec]
) -> None:
    def counted() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        with transaction() as session:
            for name, query in queries:
                found.setdefault(name, []).append(session.execute(text(query)).scalar_one())
        assert found.pop("render-other") == [0, 0], "its model has no walk"
        return found

    assert counted() == {"render-main": [0, 0], "assemble": [0]}
    with transaction() as session:
        walk = service.create(session, spec(frames=40), public=True, owner="ann")
    total = counted()["render-main"][0]
    assert total > 1
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.RENDER, "here")
    assert counted() == {"render-main": [total, 1], "assemble": [0]}, "the last worker is kept"
    with transaction() as session:
        assert claimed
        leases.release(session, claimed)
    assert counted() == {"render-main": [total, 0], "assemble": [0]}
    with transaction() as session:
        service.cancel(session, walk.id, owner="ann")
    assert counted() == {"render-main": [0, 0], "assemble": [0]}, "nothing is left to wait for"
