"""Who may talk to whom, where paths lead, and whose word about visitors is believed."""

import re
from ipaddress import ip_address, ip_network

import pytest

from api.addresses import client_address
from api.app import app
from tests.infra.kubernetes.chart import (
    COMPONENT,
    SETS,
    Check,
    Fault,
    Manifests,
    Object,
    finds,
    labels,
    loaded,
    matches,
    put,
    rendered,
    setting,
    without,
)

POD_NETWORK, PRIVATE, INTERNET = "10.20.3.4", "10.30.0.3", "93.184.216.34"
LB_ADDRESS, LB_PROXY, LB_HEALTH, METADATA = "192.0.2.1", "10.10.64.9", "35.191.1.2", "169.254.169.254"

Peer = str | dict[str, str]
"""An address outside, or the labels of a pod or of a namespace."""

ENTRY: dict[str, list[Peer]] = {
    "gke": [LB_PROXY, LB_HEALTH],
    "gke-without-domain": [LB_PROXY, LB_HEALTH],
    "gke-nginx": [{"kubernetes.io/metadata.name": "nginx-ingress"}],
    "gke-nginx-tls": [{"kubernetes.io/metadata.name": "nginx-ingress"}],
    "traefik": [{"kubernetes.io/metadata.name": "kube-system"}],
    "hub": [{"kubernetes.io/metadata.name": "proxies"}],
}
"""Who comes in from outside, for each set of values with a way in."""

COLLECTOR: dict[str, Peer] = {
    **{name: {"kubernetes.io/metadata.name": "opentelemetry"} for name in SETS if name.startswith("gke")},
    "claim": "10.99.0.7",
}
"""Where traces go, for each set of values that has a collector."""


def everything_else_is_denied(manifests: Manifests) -> None:
    if manifests.values == "bare":
        assert not manifests.all("NetworkPolicy")
        return
    deny = manifests.one("NetworkPolicy", "default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    assert all(matches(deny["podSelector"], labels(each)) for each in manifests.workloads())
    for each in manifests.workloads():
        assert set(deny["podSelector"]["matchLabels"]) <= set(labels(each)), "and no other pods of the namespace"


def what_is_needed_leaves_and_enters(manifests: Manifests) -> None:
    for source in ("api", "reconciler", "render", "assemble", "migrate"):
        assert leaves(manifests, source, PRIVATE, 5432), f"{source} needs PostgreSQL"
        assert leaves(manifests, source, METADATA, 53, "UDP")
    for source in ("api", "reconciler", "render", "assemble"):
        assert leaves(manifests, source, PRIVATE, 6379)
        assert leaves(manifests, source, INTERNET, 443), f"{source} needs the bucket"
        assert leaves(manifests, source, METADATA, 80) == (manifests.values != "traefik"), (
            "tokens, unless by a file"
        )
        assert enters(manifests, source, {"kubernetes.io/metadata.name": "gmp-system"}, 9100)
        if collector := COLLECTOR.get(manifests.values):
            assert leaves(manifests, source, collector, 4318), "traces"
    assert leaves(manifests, "weights", INTERNET, 443)
    assert leaves(manifests, "reconciler", INTERNET, 8443), "webhooks go to any port"
    api, frontend = (labels(manifests.one("Deployment", name)) for name in ("api", "frontend"))
    assert leaves(manifests, "frontend", api, 8000)
    assert enters(manifests, "api", frontend, 8000)
    for peer in ENTRY.get(manifests.values, []):
        assert enters(manifests, "api", peer, 8000)
        assert enters(manifests, "frontend", peer, 8080)


def nothing_else_leaves_or_enters(manifests: Manifests) -> None:
    if manifests.values == "bare":
        return
    for source in ("api", "reconciler", "render", "assemble"):
        assert not leaves(manifests, source, POD_NETWORK, 443)
        assert not enters(manifests, source, {"kubernetes.io/metadata.name": "default"}, 9100)
        if manifests.values not in COLLECTOR:
            assert not leaves(manifests, source, {"kubernetes.io/metadata.name": "opentelemetry"}, 4318)
    assert not leaves(manifests, "reconciler", METADATA, 8443)
    assert not leaves(manifests, "render", INTERNET, 8443)
    assert not leaves(manifests, "migrate", INTERNET, 443)
    assert not leaves(manifests, "frontend", PRIVATE, 5432)
    assert not leaves(manifests, "frontend", INTERNET, 443)
    api, render = (labels(manifests.one("Deployment", name)) for name in ("api", _a_pool(manifests)))
    assert not leaves(manifests, "render", api, 8000)
    assert not enters(manifests, "api", render, 8000)
    for target, port in (("api", 8000), ("frontend", 8080)):
        assert not enters(manifests, target, INTERNET, port)
        assert not enters(manifests, target, {"kubernetes.io/metadata.name": "default"}, port)


def _a_pool(manifests: Manifests) -> str:
    names = [str(each["metadata"]["name"]).removeprefix("momalisa-") for each in manifests.all("Deployment")]
    return next(name for name in names if name.startswith("render-"))


def leaves(manifests: Manifests, source: str, target: Peer, port: int, protocol: str = "TCP") -> bool:
    return _allowed(manifests, source, target, port, protocol, "Egress")


def enters(manifests: Manifests, target: str, source: Peer, port: int) -> bool:
    return _allowed(manifests, target, source, port, "TCP", "Ingress")


def _allowed(manifests: Manifests, own: str, peer: Peer, port: int, protocol: str, direction: str) -> bool:
    """Tell whether the policies let a pod talk, as Kubernetes adds them up."""
    word, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    pod = {
        "app.kubernetes.io/name": "momalisa",
        "app.kubernetes.io/instance": "momalisa",
        COMPONENT: own,
    }
    policies = [
        each["spec"] for each in manifests.all("NetworkPolicy") if matches(each["spec"]["podSelector"], pod)
    ]
    if not any(direction in each["policyTypes"] for each in policies):
        return True
    return any(
        any(_is_peer(one, peer) for one in rule[side])
        and any(
            given["protocol"] == protocol and given["port"] <= port <= given.get("endPort", given["port"])
            for given in rule["ports"]
        )
        for each in policies
        for rule in each.get(word, [])
    )


def _is_peer(rule: Object, peer: Peer) -> bool:
    if block := rule.get("ipBlock"):
        return (
            isinstance(peer, str)
            and ip_address(peer) in ip_network(block["cidr"])
            and not any(ip_address(peer) in ip_network(each) for each in block.get("except", []))
        )
    selector = rule.get("podSelector", rule.get("namespaceSelector"))
    return not isinstance(peer, str) and selector is not None and matches(selector, peer)


def paths_lead_where_they_should(manifests: Manifests) -> None:
    if not manifests.all("Ingress", "Gateway"):
        assert manifests.values not in ENTRY or manifests.values == "hub"
        return
    rules = _rules(manifests)
    for _, _, name, port in rules:
        assert port in [each["port"] for each in manifests.one("Service", name)["spec"]["ports"]]
    documented = [path.replace("{walk_id}", "1") for path in app.openapi()["paths"] if path.startswith("/v1")]
    assert len(documented) > 5
    for path in (*documented, "/v1", "/docs", "/openapi.json"):
        assert _leads(rules, path) == "momalisa-api", path
    for path in ("/", "/walks/1", "/gallery", "/about", "/static/favicon.svg", "/v10", "/docs.html"):
        assert _leads(rules, path) == "momalisa-frontend", path


def _rules(manifests: Manifests) -> list[tuple[str, str, str, int]]:
    """Return the kind of match, the path, the service and its port of each rule."""
    if ingresses := manifests.all("Ingress"):
        (ingress,) = ingresses
        (rule,) = ingress["spec"]["rules"]
        return [
            (
                each["pathType"],
                each["path"],
                each["backend"]["service"]["name"],
                each["backend"]["service"]["port"]["number"],
            )
            for each in rule["http"]["paths"]
        ]
    route = manifests.one("HTTPRoute", "momalisa")
    gateway = manifests.one("Gateway", route["spec"]["parentRefs"][0]["name"])
    assert route["spec"]["parentRefs"][0]["sectionName"] in [each["name"] for each in gateway["spec"]["listeners"]]
    return [
        (
            match["path"]["type"].replace("PathPrefix", "Prefix"),
            match["path"]["value"],
            backend["name"],
            backend["port"],
        )
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for backend in rule["backendRefs"]
    ]


def _leads(rules: list[tuple[str, str, str, int]], path: str) -> str:
    """Return the service that a path leads to: an exact match, else the longest prefix of whole segments."""
    fits = [
        (kind == "Exact", len(value), service)
        for kind, value, service, _ in rules
        if path == value or (kind == "Prefix" and f"{path}/".startswith(f"{value.rstrip('/')}/"))
    ]
    return max(fits)[2]


def a_domain_has_tls_and_none_is_served_by_any_name(manifests: Manifests) -> None:
    domain = "walks.example.com" if manifests.values in {"gke", "gke-nginx-tls", "traefik"} else None
    for each in manifests.all("Ingress"):
        spec = each["spec"]
        assert spec["rules"][0].get("host") == domain
        assert spec.get("tls") == ([{"hosts": [domain], "secretName": "momalisa-tls"}] if domain else None)
        if manifests.values == "gke-nginx-tls":
            annotations = each["metadata"]["annotations"]
            assert annotations["cert-manager.io/issuer"] == manifests.one("Issuer", "momalisa")["metadata"]["name"]
            assert annotations["acme.cert-manager.io/http01-edit-in-place"] == "true", "NGINX wants one per host"
            assert annotations["cert-manager.io/issue-temporary-certificate"] == "true", "or no challenge succeeds"
    for each in manifests.all("Gateway"):
        listeners = {one["name"]: one for one in each["spec"]["listeners"]}
        assert set(listeners) == ({"http", "https"} if domain else {"http"})
        assert all(one.get("hostname") == domain for one in listeners.values())
        if domain:
            assert listeners["https"]["tls"]["options"] == {
                "networking.gke.io/cert-manager-certs": "momalisa-cluster"
            }
            redirect = manifests.one("HTTPRoute", "to-https")["spec"]
            assert redirect["parentRefs"] == [{"name": "momalisa", "sectionName": "http"}]
            assert redirect["rules"][0]["filters"][0]["requestRedirect"]["scheme"] == "https"


def the_load_balancer_waits_for_held_answers(manifests: Manifests) -> None:
    for each in manifests.all("Ingress"):
        if not manifests.values.startswith("gke-nginx"):
            continue
        given = each["metadata"]["annotations"]
        assert int(given["nginx.org/proxy-read-timeout"].removesuffix("s")) > 30
        assert given["nginx.org/proxy-buffering"] == "False"
        others = ("nginx.org/", "cert-manager.io/", "acme.cert-manager.io/")
        assert all(name.startswith(others) for name in given), "other controllers have other names"
    for each in manifests.all("GCPBackendPolicy", "HealthCheckPolicy"):
        service = manifests.one("Service", each["spec"]["targetRef"]["name"])
        if each["kind"] == "HealthCheckPolicy":
            check = each["spec"]["default"]["config"]["httpHealthCheck"]
            assert [check["port"]] == [port["port"] for port in service["spec"]["ports"]]
    if manifests.all("Gateway"):
        events = manifests.one("GCPBackendPolicy", "api")["spec"]["default"]
        assert events["timeoutSec"] >= 600, "a stream of events is one answer"
        assert manifests.one("GCPBackendPolicy", "frontend")["spec"]["default"]["timeoutSec"] > 30


def visitors_are_known_by_their_own_address(manifests: Manifests) -> None:
    trusted = loaded(manifests.variables(manifests.pod("api"))).trusted_proxies
    configuration = manifests.one("ConfigMap", "frontend")["data"]["real-ip.conf"]
    believed = [ip_network(each) for each in re.findall(r"set_real_ip_from (\S+);", configuration)]
    assert sorted(map(str, believed)) == sorted(map(str, trusted)), "NGINX and the API believe the same proxies"
    assert "real_ip_recursive on;" in configuration
    visitor, pod = "198.51.100.7", POD_NETWORK
    # Google's load balancer adds the visitor and itself, NGINX Ingress the visitor only.
    known = {
        "gke": (LB_PROXY, f"1.1.1.1, {visitor}, {LB_ADDRESS}"),
        "gke-without-domain": (LB_PROXY, f"1.1.1.1, {visitor}, {LB_ADDRESS}"),
        "gke-nginx": (pod, f"1.1.1.1, {visitor}"),
        "gke-nginx-tls": (pod, f"1.1.1.1, {visitor}"),
    }.get(manifests.values)
    if known:
        peer, forwarded = known
        assert client_address(peer, [forwarded], trusted) == visitor
        through_the_frontend = client_address(peer, [forwarded], [each for each in believed if each.version == 4])
        assert client_address(pod, [through_the_frontend], trusted) == visitor
    assert client_address(visitor, ["1.1.1.1"], trusted) == visitor


CHECKS: tuple[Check, ...] = (
    everything_else_is_denied,
    what_is_needed_leaves_and_enters,
    nothing_else_leaves_or_enters,
    paths_lead_where_they_should,
    a_domain_has_tls_and_none_is_served_by_any_name,
    the_load_balancer_waits_for_held_answers,
    visitors_are_known_by_their_own_address,
)


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("check", CHECKS)
def test_the_network_is_right(check: Check, values: str) -> None:
    check(rendered(values))


FAULTS: tuple[tuple[Check, Fault, str], ...] = (
    (everything_else_is_denied, without("NetworkPolicy", "default-deny"), "gke"),
    *(
        (what_is_needed_leaves_and_enters, without("NetworkPolicy", name), "gke")
        for name in ("names", "stores", "google", "webhooks", "pages", "api", "metrics", "load-balancer", "traces")
    ),
    (
        nothing_else_leaves_or_enters,
        put("NetworkPolicy", "webhooks", "spec.egress.0.to.0.ipBlock.except", []),
        "gke",
    ),
    (
        nothing_else_leaves_or_enters,
        put("NetworkPolicy", "metrics", "spec.ingress.0.from", [{"podSelector": {}}]),
        "gke",
    ),
    (paths_lead_where_they_should, put("HTTPRoute", "momalisa", "spec.rules.0.matches", []), "gke"),
    (paths_lead_where_they_should, put("HTTPRoute", "momalisa", "spec.rules.1.backendRefs.0.port", 80), "gke"),
    (paths_lead_where_they_should, put("Ingress", "momalisa", "spec.rules.0.http.paths.0.path", "/v"), "gke-nginx"),
    (
        a_domain_has_tls_and_none_is_served_by_any_name,
        put("Ingress", "momalisa", "spec.rules.0.host", "momalisa.example"),
        "gke-nginx",
    ),
    (
        a_domain_has_tls_and_none_is_served_by_any_name,
        put("Ingress", "momalisa", "spec.tls", None),
        "gke-nginx-tls",
    ),
    (
        a_domain_has_tls_and_none_is_served_by_any_name,
        put("Gateway", "momalisa", "spec.listeners.1.tls.options", {}),
        "gke",
    ),
    (
        the_load_balancer_waits_for_held_answers,
        put("GCPBackendPolicy", "api", "spec.default.timeoutSec", 30),
        "gke",
    ),
    (
        the_load_balancer_waits_for_held_answers,
        put("HealthCheckPolicy", "frontend", "spec.default.config.httpHealthCheck.port", 80),
        "gke",
    ),
    (
        the_load_balancer_waits_for_held_answers,
        put("Ingress", "momalisa", "metadata.annotations.nginx~org/proxy-buffering", "True"),
        "gke-nginx",
    ),
    (visitors_are_known_by_their_own_address, setting("TRUSTED_PROXIES", "10.20.0.0/16,10.10.64.0/23"), "gke"),
)


@pytest.mark.parametrize(("check", "fault", "values"), FAULTS)
def test_each_check_finds_a_fault(check: Check, fault: Fault, values: str) -> None:
    finds(check, fault, values)


def test_every_check_is_checked() -> None:
    assert {check for check, _, _ in FAULTS} == set(CHECKS)
