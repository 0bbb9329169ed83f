"""Settings and secrets: the pods get what the code reads."""

from pathlib import Path

import pytest
import yaml

from momalisa.settings import SECRETS, Settings
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

FILES = {"database_url", "broker_url", "secret_keys", "webhook_secret"}
"""Settings that are secrets."""

OTHER_VARIABLES = {"API", "HF_HUB_OFFLINE", "HF_HOME", "LD_LIBRARY_PATH", "GOOGLE_APPLICATION_CREDENTIALS"}
"""What others than MoMALisa read."""

AT_DEFAULT = {
    *("port", "bucket_endpoint", "bucket_public_url", "signed_url_seconds"),
    *("default_steps", "default_guidance"),
    *("dtype", "dense_revisions", "compile_cache_dir", "threads", "workers"),
    *("anonymous", "cors_origins", "blocklist", "security_contact"),
    *("broker_ca", "queue_prefix", "metrics_host"),
    *("rate_limits", "requests_per_minute", "submissions_per_minute", "max_waiting_walks"),
    *("output_pixels_per_day", "max_open_waits"),
    *("lease_seconds", "stall_seconds", "reconcile_seconds", "retention_days", "max_attempts"),
    "max_queued_messages",
    "gif_max_bytes",
    *("webhook_loopback", "webhook_ca", "webhook_timeout_seconds"),
    *("momalisa_url", "momalisa_api_key"),
    *("renderer", "vertex_endpoint", "vertex_url", "vertex_timeout_seconds"),
    *("aip_http_port", "aip_health_route", "aip_predict_route"),
    *("loras", "textual_inversions", "vae", "allow_pickle", "offload"),
    *("google_cloud_project", "momalisa_version", "momalisa_revision"),
}
"""Settings that the chart leaves to `settings`. A new one is named here, in a template, or in a set of values."""


def secrets_are_where_the_settings_look(manifests: Manifests) -> None:
    assert set(Settings.model_fields) >= FILES
    for each in manifests.workloads():
        if component(each) in {"frontend", "weights"}:
            continue
        pod = each["spec"]["template"]["spec"]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
        assert _files(manifests, volume) >= FILES
        assert {"name": "secrets", "mountPath": str(SECRETS), "readOnly": True} in container(pod)["volumeMounts"]
    assert not manifests.all("Secret"), "no secret is written down"
    assert not {"SECRET_KEYS", "DATABASE_URL"} & {
        name for each in manifests.workloads() for name in manifests.variables(each["spec"]["template"]["spec"])
    }


def _files(manifests: Manifests, volume: Object) -> set[str]:
    """Return the names of the files of a volume."""
    match volume:
        case {"csi": {"driver": "secrets-store-gke.csi.k8s.io", "volumeAttributes": {"secretProviderClass": name}}}:
            provider = manifests.one("SecretProviderClass", name)
            assert provider["spec"]["provider"] == "gke"
            secrets = yaml.safe_load(provider["spec"]["parameters"]["secrets"])
            for each in secrets:
                secret = f"momalisa-{each['path'].replace('_', '-')}"
                assert each["resourceName"] == f"projects/art-project/secrets/{secret}/versions/latest"
            return {each["path"] for each in secrets}
        case {"projected": {"sources": [{"secret": first}, {"secret": {"optional": True} as second}]}}:
            assert first["name"] == second["name"]
            items = [*first["items"], *second["items"]]
            assert all(each["key"] == each["path"] for each in items)
            assert [each["key"] for each in second["items"]] == ["webhook_secret"], "no other may be left out"
            return {each["path"] for each in items}
    pytest.fail(f"{volume} is unknown")


def settings_are_known(manifests: Manifests) -> None:
    for each in manifests.workloads():
        given = manifests.variables(each["spec"]["template"]["spec"])
        names = {name.lower() for name in given if name not in OTHER_VARIABLES}
        assert names <= set(Settings.model_fields), f"{names - set(Settings.model_fields)} are no settings"
        assert loaded(given).model_fields_set >= names


def credentials_are_a_file_that_is_there(manifests: Manifests) -> None:
    given = manifests.variables(manifests.pod("api"))
    path = given.get("GOOGLE_APPLICATION_CREDENTIALS")
    assert (path is not None) == (manifests.values == "traefik")
    if path:
        (volume,) = [each for each in manifests.pod("api")["volumes"] if each["name"] == "secrets"]
        assert Path(path).parent == SECRETS
        assert Path(path).name in _files(manifests, volume)
        assert _files(manifests, volume) == {*FILES, Path(path).name}, "KEDA's connection is not for the pods"


def walks_links_and_files_are_as_asked_for(manifests: Manifests) -> None:
    given = loaded(manifests.variables(manifests.pod("api")))
    expected = {
        "gke": ("https://walks.example.com", True),
        "gke-nginx": ("http://192.0.2.1", True),
        "gke-nginx-tls": ("https://walks.example.com", True),
        "gke-without-domain": ("http://192.0.2.1", True),
        "traefik": ("https://walks.example.com", True),
        "bare": ("https://walks.example.com", False),
    }
    assert (given.public_url, given.signed_urls) == expected.get(manifests.values, (None, True))
    if manifests.values == "gke":
        assert given.pixel_steps_per_day == 20_000_000_000, "not 2e+10"


CHECKS: tuple[Check, ...] = (
    secrets_are_where_the_settings_look,
    settings_are_known,
    credentials_are_a_file_that_is_there,
    walks_links_and_files_are_as_asked_for,
)


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("check", CHECKS)
def test_settings_are_right(check: Check, values: str) -> None:
    check(rendered(values))


def test_every_setting_is_the_charts_or_left_to_operators() -> None:
    seen = {
        name.lower()
        for values in SETS
        for manifests in [rendered(values)]
        for each in manifests.workloads()
        for name in manifests.variables(each["spec"]["template"]["spec"])
        if name not in OTHER_VARIABLES
    }
    assert not seen & AT_DEFAULT
    missing = set(Settings.model_fields) - seen - FILES - AT_DEFAULT
    assert not missing, f"{missing} are neither in the chart nor left at their default on purpose"


FAULTS: tuple[tuple[Check, Fault, str], ...] = (
    (
        secrets_are_where_the_settings_look,
        put("Deployment", "api", f"{MAIN}.volumeMounts.0.mountPath", "/s"),
        "gke",
    ),
    (
        secrets_are_where_the_settings_look,
        put("Deployment", "api", f"{POD}.volumes.0.csi.volumeAttributes.secretProviderClass", "other"),
        "gke",
    ),
    (
        secrets_are_where_the_settings_look,
        put("Deployment", "api", f"{POD}.volumes.0.projected.sources.0.secret.items.0.path", "url"),
        "traefik",
    ),
    (settings_are_known, setting("BUKET", "walks"), "gke"),
    (settings_are_known, setting("PUBLIC_URL", "walks.example.com"), "gke"),
    (settings_are_known, put("Deployment", "render-main", f"{MAIN}.env.0.name", "DEVISE"), "gke"),
    (
        credentials_are_a_file_that_is_there,
        put("Deployment", "api", f"{MAIN}.env.0.value", "/run/secrets/key.json"),
        "traefik",
    ),
    (walks_links_and_files_are_as_asked_for, setting("SIGNED_URLS", "off"), "gke"),
)


@pytest.mark.parametrize(("check", "fault", "values"), FAULTS)
def test_each_check_finds_a_fault(check: Check, fault: Fault, values: str) -> None:
    finds(check, fault, values)


def test_every_check_is_checked() -> None:
    assert {check for check, _, _ in FAULTS} == set(CHECKS)


def test_other_settings_are_a_rolling_update_and_no_migration() -> None:
    before, after = (
        Manifests("standalone", parsed(template("--set", f"settings.BATCH_SIZE={size}"))) for size in (4, 8)
    )
    for name in ("api", "frontend", "reconciler", "assemble", "render-main"):
        old, new = (each.one("Deployment", name)["spec"]["template"]["metadata"] for each in (before, after))
        assert old != new, name
    assert before.all("Job") == after.all("Job")


def test_other_labels_are_no_rolling_update() -> None:
    before, after = (
        Manifests("standalone", parsed(template("--set", f"monitoring.kind={kind}"))) for kind in ("none", "gke")
    )
    assert before.one("Deployment", "api") == after.one("Deployment", "api")
