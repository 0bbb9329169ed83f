"""The API of a Kubernetes cluster in memory, as far as `kubernetes.core` needs it to apply objects and to wait.

It knows the kinds that our manifests use, and no rules: schemas are for `test_kubernetes`. Jobs are done and
Deployments run as soon as they are made.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

KINDS = {
    "v1": {
        "Namespace": "namespaces",
        "ServiceAccount": "serviceaccounts",
        "ConfigMap": "configmaps",
        "Service": "services",
    },
    "apps/v1": {"Deployment": "deployments"},
    "batch/v1": {"Job": "jobs"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
    "keda.sh/v1alpha1": {"ScaledObject": "scaledobjects", "TriggerAuthentication": "triggerauthentications"},
    "gateway.networking.k8s.io/v1": {"Gateway": "gateways", "HTTPRoute": "httproutes"},
    "networking.gke.io/v1": {
        "GCPBackendPolicy": "gcpbackendpolicies",
        "HealthCheckPolicy": "healthcheckpolicies",
    },
    "monitoring.googleapis.com/v1": {"PodMonitoring": "podmonitorings"},
    "secrets-store.csi.x-k8s.io/v1": {"SecretProviderClass": "secretproviderclasses"},
}
"""For each version of an API, the plural of each kind."""

READY = {"Job": "Complete", "Deployment": "Available"}
"""The condition of kinds that are waited for."""


class Cluster:
    """The objects of a cluster, and what was asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        """By path, like `apis/apps/v1/namespaces/momalisa/deployments/api`, in the order of their making."""
        self.changes: list[str] = []
        """Method and path of each request that changed something."""
        self.url = ""

    def one(self, kind: str, name: str) -> Object:
        """Return an object; there must be one of this kind and name."""
        (found,) = [
            each for each in self.objects.values() if (each["kind"], each["metadata"]["name"]) == (kind, name)
        ]
        return found

    def answer(self, method: str, path: str, body: Object | None) -> tuple[int, Object]:
        """Return the status and the body for a request."""
        path = path.strip("/")
        if method == "GET":
            return self._read(path)
        before = self.objects.get(path)
        if method == "POST":
            assert body
            status, answer = 201, self._make(f"{path}/{body['metadata']['name']}", body)
        elif before is None:
            return _refused(404, "NotFound", path)
        else:
            status, answer = self._delete(path) if method == "DELETE" else self._change(path, body)
        if method == "POST" or self.objects.get(path) != before:  # a patch with nothing new in it is no change
            self.changes.append(f"{method} {path}")
        return status, answer

    def _read(self, path: str) -> tuple[int, Object]:
        if (discovered := _discovery(path)) is not None:
            return 200, discovered
        if path in self.objects:
            return 200, self.objects[path]
        if path.rpartition("/")[2] in {plural for kinds in KINDS.values() for plural in kinds.values()}:
            found = [each for name, each in self.objects.items() if name.rpartition("/")[0] == path]
            return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}
        return _refused(404, "NotFound", path)

    def _delete(self, path: str) -> tuple[int, Object]:
        """Remove an object; and with a namespace, all that is in it."""
        inside = f"/{path.removeprefix('api/v1/')}/"
        for name in [name for name in self.objects if name == path or inside in f"/{name}"]:
            del self.objects[name]
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _change(self, path: str, patch: Object | None) -> tuple[int, Object]:
        old = self.objects[path]
        new: Object = _merged(old, patch)
        if old["kind"] == "Job" and new["spec"]["template"] != old["spec"]["template"]:
            return _refused(422, "Invalid", f"{path}: spec.template: field is immutable")
        self.objects[path] = new
        return 200, new

    def _make(self, path: str, body: Object) -> Object:
        made = deepcopy(body)
        made["metadata"] |= {"uid": path, "resourceVersion": "1", "generation": 1}
        if condition := READY.get(made["kind"]):
            replicas = made["spec"].get("replicas", 1)
            made["status"] = {
                "observedGeneration": 1,
                "conditions": [{"type": condition, "status": "True"}],
                **dict.fromkeys(("replicas", "availableReplicas", "readyReplicas", "updatedReplicas"), replicas),
            }
        self.objects[path] = made
        return made


def _merged(old: Any, patch: Any) -> Any:
    """Return what a JSON merge patch (RFC 7396) makes of a value."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _discovery(path: str) -> Object | None:
    """Return what a client learns about the kinds that there are."""
    if path == "version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "apis":
        groups = [
            {"name": group, "versions": [version], "preferredVersion": version}
            for group, version in (
                (each.partition("/")[0], {"groupVersion": each, "version": each.partition("/")[2]})
                for each in KINDS
                if "/" in each
            )
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("apis/").removeprefix("api/")
    if version not in KINDS or path != ("api/v1" if version == "v1" else f"apis/{version}"):
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": kind != "Namespace",
            "verbs": verbs,
        }
        for kind, plural in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _refused(code: int, reason: str, message: str) -> tuple[int, Object]:
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }


@contextmanager
def listening() -> Iterator[Cluster]:
    """Run the API of an empty cluster for the length of a block."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(raw) if raw else None
            status, answer = cluster.answer(self.command, urlsplit(self.path).path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        cluster.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()
