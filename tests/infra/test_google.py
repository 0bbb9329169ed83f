"""The stand-in of Google refuses what Google would, by its own discovery documents."""

from typing import Any

import pytest

from tests.infra.google import Google, Request

CLUSTERS = "/v1/projects/art-project/locations/us-central1/clusters"
REDIS = "/v1/projects/art-project/locations/us-central1/instances"
FIREWALLS = "/compute/v1/projects/art-project/global/firewalls"


def asked(google: Google, method: str, host: str, path: str, body: Any = None, **query: str) -> tuple[int, str]:
    """Return the status and the message of an answer."""
    status, answer = google.answer(Request(method, f"{host}.googleapis.com", path, query, body))
    return status, answer.get("error", {}).get("message", "")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            {"gatewayApiConfig": {"channel": "CHANNEL_STANDARD"}},
            "Invalid JSON payload received. Unknown name \"gatewayApiConfig\" at 'cluster': Cannot find field.",
        ),
        ({"networkConfig": {"gatewayApiConfig": {"channel": "STANDARD"}}}, 'CHANNEL_STANDARD\']), "STANDARD"'),
        ({"nodePools": [{"initialNodeCount": "one"}]}, "at 'cluster.node_pools[0].initial_node_count' (int32)"),
        ({"nodePools": [{"config": {"spot": "true"}}]}, '(boolean), "true"'),
        ({"nodePools": {"name": "cpu"}}, "at 'cluster.node_pools' (a list)"),
        ({"status": "RUNNING"}, "Field 'cluster.status' is output only."),
        ({"privateClusterConfig": {"enablePrivateNodes": True}}, "is deprecated: Whether nodes have internal"),
    ],
    ids=["place", "enum", "number", "boolean", "list", "output-only", "deprecated"],
)
def test_a_body_that_google_does_not_know_is_refused(google: Google, cluster: Any, message: str) -> None:
    status, said = asked(google, "POST", "container", CLUSTERS, {"cluster": {"name": "momalisa", **cluster}})
    assert (status, message in said) == (400, True), said
    assert google.resources == {}


@pytest.mark.parametrize(
    ("method", "host", "path", "query", "body", "status", "message"),
    [
        ("POST", "container", "/v1/projects/art-project/clusters", {}, {}, 404, "was not found"),
        ("PATCH", "container", f"{CLUSTERS}/momalisa", {}, {}, 404, "was not found"),
        ("GET", "us-mars1-aiplatform", "/v1/projects/p/locations/us-mars1/models", {}, None, 404, "was not found"),
        ("GET", "compute", FIREWALLS, {"filters": "a"}, None, 400, "Field 'filters' could not be found"),
        ("GET", "compute", FIREWALLS, {}, {"name": "a"}, 400, "compute.firewalls.list takes no body"),
        ("POST", "storage", "/storage/v1/b", {}, {"name": "walks"}, 400, "Required parameter: project"),
        (
            "POST",
            "redis",
            REDIS,
            {"instanceId": "one"},
            {"memorySizeGb": 1},
            400,
            "Required field 'tier' is missing.",
        ),
        ("POST", "redis", REDIS, {}, {"tier": "BASIC", "memorySizeGb": 1}, 400, "Required parameter: instanceId"),
        ("POST", "compute", FIREWALLS, {}, {"name": "Web", "network": "n"}, 400, "Invalid value at 'name'"),
    ],
)
def test_a_request_that_google_does_not_know_is_refused(
    google: Google, method: str, host: str, path: str, query: dict[str, str], body: Any, status: int, message: str
) -> None:
    refused = asked(google, method, host, path, body, **query)
    assert (refused[0], message in refused[1]) == (status, True), refused


def test_an_answer_that_google_would_not_give_is_an_error_of_the_stand_in(google: Google) -> None:
    google.overrides.append(lambda _: (200, {"state": "RUNNING"}))
    status, said = asked(google, "GET", "container", f"{CLUSTERS}/momalisa")
    assert (status, 'Unknown name "state"' in said) == (500, True), said
