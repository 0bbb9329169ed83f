"""The API of a Kubernetes cluster in memory, as far as the playbooks, Helm and kubectl need it in tests."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.serving import serving

Object = dict[str, Any]

KINDS = {("v1", "Namespace"), ("v1", "Secret"), ("v1", "Pod")}
"""Version and name of the kinds that every cluster knows here."""

NOT_IN_NAMESPACES = {"Namespace", "ComputeClass"}


class Cluster:
    """The objects of a cluster, and what was asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        """By path, like `api/v1/namespaces/momalisa/secrets/one`, in the order of their making."""
        self.changes: list[str] = []
        """Method and path of each request that changed something."""
        self.kinds = set(KINDS)
        self.url = ""

    def one(self, kind: str, name: str) -> Object:
        """Return an object; there must be one of this kind and name."""
        (found,) = [
            each for each in self.objects.values() if (each["kind"], each["metadata"]["name"]) == (kind, name)
        ]
        return found

    def answer(self, method: str, path: str, selector: str, body: Object | None) -> tuple[int, Object]:
        """Return the status and the body for a request."""
        path = path.strip("/")
        if path.endswith("/scale"):
            assert body
            path = path.removesuffix("/scale")
            _, answer = self.answer(method, path, selector, body)
            return 200, {"kind": "Scale", "apiVersion": "autoscaling/v1", **_only(answer, "metadata", "spec")}
        if method == "GET":
            return self._read(path, selector)
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

    def _read(self, path: str, selector: str) -> tuple[int, Object]:
        if (discovered := _discovery(path, self.kinds)) is not None:
            return 200, discovered
        if path in self.objects:
            return 200, self.objects[path]
        if path.rpartition("/")[2] in {plural(kind) for _, kind in self.kinds}:
            inside = [each for name, each in self.objects.items() if name.rpartition("/")[0] == path]
            found = [each for each in inside if _selected(each["metadata"].get("labels", {}), selector)]
            return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}
        return _refused(404, "NotFound", path)

    def _delete(self, path: str) -> tuple[int, Object]:
        """Remove an object; and with a namespace, all that is in it."""
        inside = f"/{path.removeprefix('api/v1/')}/"
        for name in [name for name in self.objects if name == path or inside in f"/{name}"]:
            del self.objects[name]
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _change(self, path: str, patch: Object | None) -> tuple[int, Object]:
        self.objects[path] = _merged(self.objects[path], patch)
        return 200, self.objects[path]

    def _make(self, path: str, body: Object) -> Object:
        made = deepcopy(body)
        made["metadata"] = {
            "uid": path,
            "resourceVersion": "1",
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **made["metadata"],
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


def _selected(labels: Object, selector: str) -> bool:
    """Tell whether labels are as a selector like `a=b,c in (d,e)` says."""
    for name, value, values in re.findall(r"(\w+)(?:=(\w+)| in \(([^)]*)\))", selector):
        if labels.get(name) not in ([value] if value else values.split(",")):
            return False
    return True


def plural(kind: str) -> str:
    """Return the name of a kind in paths, as Kubernetes derives it."""
    name = kind.lower()
    if name.endswith("s"):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2] not in "aeiou" else f"{name}s"


def _only(of: Object, *names: str) -> Object:
    return {name: of[name] for name in names if name in of}


def _discovery(path: str, kinds: set[tuple[str, str]]) -> Object | None:
    """Return what a client learns about the kinds that there are."""
    if path == "version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "apis":
        groups = [_group(version) for version in sorted({version for version, _ in kinds if "/" in version})]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("apis/").removeprefix("api/")
    known = sorted(kind for of, kind in kinds if of == version)
    if not known:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {
            "name": plural(kind),
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": kind not in NOT_IN_NAMESPACES,
            "verbs": verbs,
        }
        for kind in known
    ]
    if "Deployment" in known:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale", "name": "deployments/scale"}
        resources.append({**scale, "singularName": "", "namespaced": True, "verbs": ["get", "patch", "update"]})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _group(version: str) -> Object:
    group, _, number = version.partition("/")
    only = {"groupVersion": version, "version": number}
    return {"name": group, "versions": [only], "preferredVersion": only}


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
            url = urlsplit(self.path)
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            status, answer = cluster.answer(self.command, url.path, selector, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server) as cluster.url:
        yield cluster
