"""Google's REST APIs in memory, reached as Ansible reaches the real ones: over TLS, through a proxy.

What is made stays until it is deleted; every request is kept, so that tests can assert bodies, and that a second
run sends nothing but GETs. What Google's discovery documents do not allow is refused (`discovery.py`), and its own
answers are held against them, too. It knows no rules between fields, no quotas and no permissions.
"""

import base64
import copy
import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.infra import discovery
from tests.infra.google_limits import Limits
from tests.receiver import certificates
from tests.serving import serving

Json = dict[str, Any]

PROJECT_NUMBER = "123456789012"


@dataclass(frozen=True)
class Request:
    """A request as it arrived; `path` is without the query, `body` is what was parsed from JSON."""

    method: str
    host: str
    path: str
    query: dict[str, str]
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.host}{self.path}"


@dataclass(frozen=True)
class Api:
    """How one API differs from the others."""

    root: str = "/v1/"
    """What precedes the names of resources in paths."""
    operations: str | None = "done"
    """What answers changes: an operation that is `done`, or whose status is `DONE`; None: the resource."""
    name: str = "?"
    """Where the name of a new resource is: in a field of the body; "?": in a query parameter like `secretId`."""
    operation_type: str | None = "insert"
    """What its operations, if they have a status, say that they do."""
    full_names: bool = True
    """Whether a resource's `name` is its whole path or the last part of it."""
    wrapped: bool = False
    """Whether the body of a creation is `{"cluster": {…}}` instead of the cluster."""
    made: dict[str, Json] = field(default_factory=dict)
    """What Google adds to a new resource, for each collection; `{name}` stands for the resource's name."""


APIS = {
    "compute": Api(
        root="/compute/v1/",
        operations="DONE",
        name="name",
        full_names=False,
        made={
            "addresses": {"status": "RESERVED", "address": "203.0.113.7"},
            "disks": {"status": "READY"},
            "instances": {"status": "RUNNING"},
        },
    ),
    "container": Api(
        operations="DONE",
        operation_type="CREATE_CLUSTER",
        name="name",
        full_names=False,
        wrapped=True,
        made={
            "clusters": {
                "status": "RUNNING",
                "endpoint": "203.0.113.8",
                "masterAuth": {"clusterCaCertificate": "Zm9yIHRlc3Rz"},
            },
            "nodePools": {"status": "RUNNING"},
        },
    ),
    "artifactregistry": Api(),
    "certificatemanager": Api(),
    "iam": Api(
        operations=None,
        name="accountId",
        wrapped=True,
        made={"serviceAccounts": {"email": "{name}", "uniqueId": "100000000000000000001"}},
    ),
    "cloudresourcemanager": Api(operations=None),
    "servicenetworking": Api(made={"connections": {"peering": "servicenetworking-googleapis-com"}}),
    "sqladmin": Api(
        operations="DONE",
        operation_type="CREATE",
        name="name",
        full_names=False,
        made={
            "instances": {
                "state": "RUNNABLE",
                "connectionName": "{name}",
                "ipAddresses": [{"type": "PRIVATE", "ipAddress": "10.1.0.3"}],
            }
        },
    ),
    "redis": Api(made={"instances": {"state": "READY", "host": "10.1.0.4", "port": 6379}}),
    "secretmanager": Api(operations=None),
    "aiplatform": Api(wrapped=True, made={"endpoints": {"dedicatedEndpointDns": "{name}.us-central1.example"}}),
    "storage": Api(root="/storage/v1/", operations=None, name="name", full_names=False),
    "serviceusage": Api(),
}
"""By the first part of the host; `us-central1-aiplatform` counts as `aiplatform`."""

STATUSES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 409: "ALREADY_EXISTS", 412: "FAILED_PRECONDITION"}
"""Names of the codes of errors."""

UNWRAPPED = {"endpoints"}
"""Collections whose creation bodies are not wrapped though others of the API are."""

Override = Callable[[Request], tuple[int, Json] | None]
"""Answers a request in place of the general rules with a status and a body; None leaves it to them."""


class Google:
    """The APIs, what was made in them, and what was asked of them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.resources: dict[str, Json] = {}
        """By host's first part and path, as in `compute/projects/p/global/networks/momalisa`."""
        self.policies: dict[str, Json] = {}
        """IAM policies, by the same names."""
        self.limits = Limits()
        """What may be done; the other requests succeed regardless."""
        self.overrides: list[Override] = []
        self.environment: dict[str, str] = {}
        """What a command needs in its environment to take this for Google."""
        self._lock = threading.Lock()

    @property
    def changes(self) -> list[Request]:
        """The requests that are more than questions."""
        return [
            request
            for request in self.requests
            if request.method != "GET" and not request.path.endswith((":getIamPolicy", ":testIamPermissions"))
        ]

    def sent(self, method: str, path: str) -> Any:
        """Return the body of the one request with this method whose path ends like this."""
        found = [r.body for r in self.requests if r.method == method and r.path.endswith(path)]
        assert len(found) == 1, f"{len(found)} × {method} …{path} among {[str(r) for r in self.changes]}"
        return found[0]

    def answer(self, request: Request) -> tuple[int, Json]:
        """Return the status and the body for a request."""
        with self._lock:
            self.requests.append(request)
            method = discovery.method(request.method, request.host, request.path)
            if method is None:
                return _error(404, f"The requested URL {request.host}{request.path} was not found on this server.")
            if faults := method.faults(request.query, request.body):
                return _error(400, "\n".join(faults))
            status, answer = self._overridden(request) or self._regular(request)
            if status < 300 and (faults := method.answer_faults(answer)):
                return _error(500, f"The stand-in answers {request} as Google never does: {faults}")
            return status, answer

    def _overridden(self, request: Request) -> tuple[int, Json] | None:
        return next(
            (answer for each in [*self.overrides, self.limits.answer] if (answer := each(request)) is not None),
            None,
        )

    def _regular(self, request: Request) -> tuple[int, Json]:
        service = request.host.partition(".")[0]
        service = service if service in APIS else service.rpartition("-")[2]
        # The versions of an API share its resources.
        name = re.sub(r"^/(?:compute/|storage/)?v\d\w*/", "", request.path)
        return self._answer(service, name, request)

    def _answer(self, service: str, name: str, request: Request) -> tuple[int, Json]:  # noqa: PLR0911 - a table
        key = f"{service}/{name}"
        if "/operations/" in f"/{name}":
            return 200, self._done(service, name)
        if service == "storage" and name.endswith("/iam"):
            return self._policy(key.removesuffix("/iam"), request)
        if ":" in name.rpartition("/")[2]:
            name, _, verb = name.rpartition(":")
            return self._verb(service, name, verb, request)
        if service == "serviceusage" and request.method == "GET" and not _is_collection(name):
            return 200, self.resources.get(key, {"name": name, "state": "DISABLED"})
        if service == "cloudresourcemanager" and request.method == "GET" and re.fullmatch("projects/[^/]+", name):
            return 200, {"projectId": name.partition("/")[2], "name": f"projects/{PROJECT_NUMBER}"}
        if _is_collection(name):
            return self._list(key) if request.method == "GET" else self._create(service, name, request)
        if key not in self.resources:
            return _error(404, f"{name} was not found")
        return self._one(service, name, request)

    def _one(self, service: str, name: str, request: Request) -> tuple[int, Json]:
        key = f"{service}/{name}"
        resource = self.resources[key]
        if request.method == "GET":
            return 200, resource
        if request.method == "DELETE":
            for other in [k for k in self.resources if k == key or k.startswith(f"{key}/")]:
                del self.resources[other]
            self.policies.pop(key, None)
            return (200, self._done(service, name)) if APIS[service].operations else (204, {})
        if request.method in {"PUT", "PATCH"}:
            body = request.body or {}
            if service == "container":  # {"update": {"desiredClusterAutoscaling": …}}
                body = {"autoscaling": body["update"]["desiredClusterAutoscaling"]}
            resource.update(merged(resource, body) if request.method == "PATCH" else body)
            if service == "aiplatform":  # an endpoint is changed at once
                return 200, resource
            return self._changed(service, name, resource)
        return _error(405, f"{request.method} is not known on {name}")

    def _list(self, key: str) -> tuple[int, Json]:
        items = [item for name, item in self.resources.items() if re.fullmatch(rf"{re.escape(key)}/[^/]+", name)]
        word = "items" if key.startswith(("compute/", "sqladmin/", "storage/")) else key.rpartition("/")[2]
        return 200, {word: items} if items else {}

    def _create(self, service: str, name: str, request: Request) -> tuple[int, Json]:
        api, collection = APIS[service], name.rpartition("/")[2]
        parent = f"{service}/{name.rpartition('/')[0]}"
        if service == "compute" and parent in self.resources:  # a verb, as in …/instances/vm/setTags
            self.resources[parent].update({"peerings": []} if collection == "removePeering" else request.body or {})
            return 200, self._done(service, name)
        if api.name == "?":
            given = [value for key, value in request.query.items() if key.lower().endswith("id")]
            ident = given[0] if given else str(len(self.resources) + 1)
        else:
            body = request.body
            wrapped = api.wrapped and api.name not in body
            ident = next(iter(body.values()))[api.name] if wrapped else body[api.name]
        if service == "iam":
            ident = f"{ident}@{name.split('/')[1]}.iam.gserviceaccount.com"
        inner = copy.deepcopy(request.body or {})
        if api.wrapped and collection not in UNWRAPPED:
            inner = next((value for value in inner.values() if isinstance(value, dict)), {})
        path = f"b/{ident}" if service == "storage" else f"{name}/{ident}"
        if f"{service}/{path}" in self.resources:
            return _error(409, f"{path} is there already")
        resource = self.put(service, path, inner)
        for pool in resource.get("nodePools", []):
            self.put(service, f"{path}/nodePools/{pool['name']}", copy.deepcopy(pool))
        return self._changed(service, path, resource)

    def put(self, service: str, path: str, body: Json) -> Json:
        """Make a resource as a creation would, with what Google adds; tests may put what is there before."""
        api, (collection, ident) = APIS[service], path.rsplit("/", 2)[-2:]
        added = json.loads(json.dumps(api.made.get(collection, {})).replace("{name}", ident))
        resource = {**added, **body}
        if collection != "connections":  # which have no names
            resource["name"] = path if api.full_names else ident
        for interface in resource.get("networkInterfaces", []):
            for access in interface.get("accessConfigs", []):
                access.setdefault("natIP", "203.0.113.7")
        self.resources[f"{service}/{path}"] = resource
        return resource

    def _verb(self, service: str, name: str, verb: str, request: Request) -> tuple[int, Json]:  # noqa: PLR0911, PLR0912
        key, body = f"{service}/{name}", request.body or {}
        if verb in {"getIamPolicy", "setIamPolicy"}:
            return self._policy(key, request)
        if verb in {"enable", "batchEnable"}:
            for path in [f"{name}/{ident}" for ident in body["serviceIds"]] if verb == "batchEnable" else [name]:
                self.resources[f"{service}/{path}"] = {"name": path, "state": "ENABLED"}
            return 200, self._done(service, name)
        if verb == "addVersion":
            number = sum(k.startswith(f"{key}/versions/") and not k.endswith("/latest") for k in self.resources) + 1
            version = {"name": f"{name}/versions/{number}", "state": "ENABLED"}
            for alias in (str(number), "latest"):
                self.resources[f"{key}/versions/{alias}"] = {**version, "payload": body["payload"]}
            return 200, version
        if verb == "access" and key in self.resources:
            return 200, {"name": name, "payload": self.resources[key]["payload"]}
        if verb == "upload":  # aiplatform's models
            ident = body.get("modelId") or str(len(self.resources) + 1)
            return self._changed(service, f"{name}/{ident}", self.put(service, f"{name}/{ident}", body["model"]))
        if key not in self.resources:
            return _error(404, f"{name} was not found")
        if verb in {"deployModel", "undeployModel", "mutateDeployedModel"}:
            deployed = self.resources[key].setdefault("deployedModels", [])
            if verb == "deployModel":
                deployed.append({"id": str(len(deployed) + 1), **body["deployedModel"]})
            elif verb == "undeployModel":
                deployed[:] = [model for model in deployed if model["id"] != body["deployedModelId"]]
            else:
                change = body["deployedModel"]
                deployed[:] = [merged(each, change) if each["id"] == change["id"] else each for each in deployed]
        else:  # setAutoscaling and the like change what they name
            self.resources[key].update(body)
        return 200, self._done(service, name)

    def _policy(self, key: str, request: Request) -> tuple[int, Json]:
        """Read or replace a policy: only version 3 has conditions, and the etag guards what others changed."""
        if key.startswith("artifactregistry/") and key not in self.resources:
            return _error(404, f"{key} was not found")
        policy = {"version": 1, "etag": "BwXhqDVOlVo=", "bindings": [], **self.policies.get(key, {})}
        conditional = any("condition" in each for each in policy["bindings"])
        if request.method == "PUT" or request.path.endswith(":setIamPolicy"):
            new = request.body.get("policy", request.body)
            if new.get("etag") != policy["etag"]:
                return _error(412 if key.startswith("storage/") else 409, "There were concurrent policy changes.")
            if new.get("version") != 3 and (conditional or any("condition" in each for each in new["bindings"])):
                return _error(400, "Requested policy version must be 3 for a policy with conditions.")
            self.policies[key] = {**new, "etag": base64.b64encode(f"{len(self.requests)}".encode()).decode()}
            return 200, self.policies[key]
        asked = [value for name, value in request.query.items() if name.lower().endswith("requestedpolicyversion")]
        options = (request.body or {}).get("options", {})
        if conditional and str(asked[0] if asked else options.get("requestedPolicyVersion")) != "3":
            # Conditions are left out, and their roles cannot be mistaken for real ones.
            hidden = [each for each in policy["bindings"] if "condition" in each]
            shown = [{"role": f"{each['role']}_withcond_1a2b", "members": each["members"]} for each in hidden]
            policy["bindings"] = [each for each in policy["bindings"] if each not in hidden] + shown
        return 200, policy

    def _changed(self, service: str, path: str, resource: Json) -> tuple[int, Json]:
        return 200, self._done(service, path, resource) if APIS[service].operations else resource

    def _done(self, service: str, path: str, resource: Json | None = None) -> Json:
        """Return an operation on a path, which is done already."""
        api = APIS[service]
        if api.operations is None:
            return {}
        # An operation belongs to the scope of its resource: a zone, a region, a location or all of the project.
        scope = re.match(r"projects/[^/]+(?:/global|/(?:zones|regions|locations)/[^/]+)?", path)
        name = f"{scope[0]}/operations/operation-1" if scope else "operations/operation-1"
        if api.operations == "done":
            return {"name": name, "done": True, "response": resource or {}}
        url = f"https://{service}.googleapis.com{api.root}"
        return {
            "name": "operation-1",
            "status": "DONE",
            "selfLink": url + name,
            "targetLink": url + path,
            "operationType": api.operation_type,
        }


def merged(old: Json, new: Json) -> Json:
    """Return an object with the fields of another one in it, at all depths, as by PATCH."""
    both = {name: merged(old[name], new[name]) for name in old.keys() & new if isinstance(new[name], dict)}
    return {**old, **new, **both}


def _is_collection(name: str) -> bool:
    """Tell `…/networks` from `…/networks/one`; `global` stands for two parts of a path."""
    return len(re.sub(r"\bglobal\b", "global/_", name).split("/")) % 2 == 1


def _error(code: int, message: str) -> tuple[int, Json]:
    return code, {"error": {"code": code, "message": message, "status": STATUSES.get(code, "INTERNAL")}}


@contextmanager
def listening(folder: Path) -> Iterator[Google]:
    """Run the proxy with Google behind it for the length of a block; `folder` gets the authority to trust."""
    google = Google()
    authority, chain = certificates(folder, "*.googleapis.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        host = ""

        def do_CONNECT(self) -> None:
            self.host = self.path.partition(":")[0]
            if not self.host.endswith(".googleapis.com"):
                self.send_error(403, f"{self.host} is not Google")
                return
            self.send_response(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb", -1)
            self.wfile = self.connection.makefile("wb", 0)
            self.close_connection = False

        def _serve(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            body = json.loads(raw) if raw else None
            path = unquote(url.path.replace("%2F", "%252F"))  # a slash inside of a name stays as it is
            status, answer = google.answer(Request(self.command, self.host, path, query, body))
            content = b"" if status == 204 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json; charset=UTF-8")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        def finish(self) -> None:
            super().finish()
            self.connection.close()

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Keep quiet about clients that hang up."""

    with serving(Server(("127.0.0.1", 0), Handler)) as proxy:
        google.environment = {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
            **dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(authority)),
            "GCP_ACCESS_TOKEN": "fake",
            "GCP_AUTH_KIND": "accesstoken",
        }
        yield google


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Google]:
    """Google's APIs, empty."""
    with listening(tmp_path) as running:
        yield running


def environment(google: Google, **more: str) -> dict[str, str]:
    """Return this process's environment with Google in it, for a child process."""
    return {**os.environ, **google.environment, **more}
