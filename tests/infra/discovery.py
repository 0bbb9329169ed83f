"""Google's own description of its REST APIs, and what it does not allow in a request.

The discovery documents come with google-api-python-client. They know methods, parameters, fields, types, enums, and
which fields are required, output only or deprecated; they do not know rules between fields, quotas or permissions.
https://developers.google.com/discovery/v1/reference/apis explains their format.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

Json = dict[str, Any]

FOLDER = files("googleapiclient.discovery_cache") / "documents"

FORMATS = {
    "google-duration": re.compile(r"-?\d+(\.\d{1,9})?s"),
    "google-fieldmask": re.compile(r"[\w.]+(,[\w.]+)*"),
}


@dataclass(frozen=True)
class Method:
    """A method of an API, as its document describes it."""

    document: "Document"
    described: Json

    @cached_property
    def path(self) -> re.Pattern[str]:
        """What the paths of its requests look like."""
        parameters = self.described.get("parameters", {})

        def pattern(match: re.Match[str]) -> str:
            known: str = parameters.get(match[2], {}).get("pattern", ".+" if match[1] else "[^/]+")
            # The part behind a colon, as in `…/accounts/one:enable`, belongs to the method, not to the name.
            return f"(?:{known.removeprefix('^').removesuffix('$').replace('[^/]+', '[^/:]+')})"

        pieces = re.split(r"(\{\+?[^}]+\})", self.described["path"])
        filled = [
            re.sub(r"\{(\+?)([^}]+)\}", pattern, piece) if piece.startswith("{") else re.escape(piece)
            for piece in pieces
        ]
        return re.compile("/" + re.escape(self.document.base) + "".join(filled))

    @cached_property
    def query(self) -> dict[str, Json]:
        """Its own parameters behind the question mark."""
        parameters = self.described.get("parameters", {})
        return {name: each for name, each in parameters.items() if each["location"] == "query"}

    def faults(self, query: dict[str, str], body: Any) -> list[str]:
        """Return what is wrong with a request, in Google's words."""
        return [*self._query_faults(query), *self._body_faults(body)]

    def answer_faults(self, answer: Any) -> list[str]:
        """Return what no answer of this method can have; of a stand-in's answer, that is."""
        schema = self.described.get("response")
        return list(Walk(self, "answer").faults(schema, answer, "")) if schema else []

    def _query_faults(self, query: dict[str, str]) -> Iterator[str]:
        for name, value in query.items():
            schema = self.query.get(name) or self.document.described["parameters"].get(name)
            if schema is None:
                yield (
                    f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter. '
                    f"Field '{name}' could not be found in request message."
                )
            elif (enum := schema.get("enum")) and value not in enum:
                yield f"Invalid value at '{_snake(name)}', \"{value}\""
        for name, each in self.query.items():
            # Newer APIs say "Required." in the description only.
            if _is_required(each, self.described["id"]) and name not in query:
                yield f"Required parameter: {name}"

    def _body_faults(self, body: Any) -> Iterator[str]:
        schema = self.described.get("request")
        if schema is None:
            if body is not None:
                yield f"Invalid JSON payload received. {self.described['id']} takes no body."
            return
        yield from Walk(self, "request").faults(schema, {} if body is None else body, "")


@dataclass(frozen=True)
class Walk:
    """Goes through a value and its schema, side by side."""

    method: Method
    kind: Literal["request", "answer"]

    def faults(self, schema: Json, value: Any, path: str) -> Iterator[str]:
        """Yield what is wrong with a value at a path."""
        if "$ref" in schema:
            schema = self.method.document.described["schemas"][schema["$ref"]]
        kind = schema.get("type")
        if kind == "object":
            yield from self._object_faults(schema, value, path)
        elif kind == "array":
            if not isinstance(value, list):
                yield f"Invalid value at '{path}' (a list), {json.dumps(value)}"
                return
            for number, each in enumerate(value):
                yield from self.faults(schema["items"], each, f"{path}[{number}]")
        elif not _is_valid(schema, value):
            of = schema.get("enum") or schema.get("pattern") or schema.get("format") or kind
            yield f"Invalid value at '{path}' ({of}), {json.dumps(value)}"

    def _object_faults(self, schema: Json, value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"Invalid value at '{path}' ({schema.get('id', 'object')}), {json.dumps(value)}"
            return
        fields, others = schema.get("properties", {}), schema.get("additionalProperties")
        at = f" at '{path}'" if path else ""
        for name, inner in value.items():
            where = f"{path}.{_snake(name)}" if path else _snake(name)
            if name in fields:
                if self.kind == "request":
                    yield from _misuse(fields[name], where)
                yield from self.faults(fields[name], inner, where)
            elif others is not None:
                yield from self.faults(others, inner, where)
            else:
                yield f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
        # A PATCH has the fields that it changes, and no others.
        if self.kind == "request" and self.method.described["httpMethod"] != "PATCH" and "updateMask" not in value:
            for name, each in fields.items():
                # Where a parameter like `instanceId` names what is created, that in the body is ignored (AIP-133).
                named = name == "name" and not path and any(of.endswith("Id") for of in self.method.query)
                if name not in value and not named and _is_required(each, self.method.described["id"]):
                    yield f"Required field '{f'{path}.' if path else ''}{_snake(name)}' is missing."


@dataclass(frozen=True)
class Document:
    """The description of one version of an API."""

    described: Json

    @property
    def base(self) -> str:
        """What precedes the paths of all methods."""
        path: str = self.described["servicePath"]
        return path

    @cached_property
    def hosts(self) -> set[str]:
        """Where the API answers: everywhere, and in single regions."""
        urls = [self.described["rootUrl"], *(each["endpointUrl"] for each in self.described.get("endpoints", []))]
        return {urlsplit(url).netloc for url in urls}

    @cached_property
    def methods(self) -> list[Method]:
        """All of its methods."""
        return [Method(self, each) for each in _methods(self.described)]

    def method(self, verb: str, path: str) -> Method | None:
        """Return the method that a request calls."""
        return next(
            (each for each in self.methods if each.described["httpMethod"] == verb and each.path.fullmatch(path)),
            None,
        )


@cache
def document(name: str) -> Document | None:
    """Return the document of an API's version, such as `compute.v1`."""
    file = FOLDER / f"{name}.json"
    return Document(json.loads(file.read_text())) if file.is_file() else None


@cache
def method(verb: str, host: str, path: str) -> Method | None:
    """Return the method that a request calls, or None if Google has none like this."""
    service = host.partition(".")[0]
    if (version := re.match(r"/(?:[a-z]+/)?(v\d\w*)/", path)) is None:
        return None
    for name in (service, service.rpartition("-")[2]):
        if (found := document(f"{name}.{version[1]}")) is not None and host in found.hosts:
            return found.method(verb, path)
    return None


def _methods(described: Json) -> Iterator[Json]:
    yield from described.get("methods", {}).values()
    for each in described.get("resources", {}).values():
        yield from _methods(each)


def _is_valid(schema: Json, value: Any) -> bool:  # noqa: PLR0911 - one line for each type
    kind, form = schema.get("type"), schema.get("format", "")
    if kind == "any":
        return True
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "integer" or form.endswith("int64"):  # a string of digits is a number, too
        return not isinstance(value, bool) and re.fullmatch(r"-?\d+", str(value)) is not None
    if not isinstance(value, str):
        return False
    if "enum" in schema:
        return value in schema["enum"]
    if form == "byte":
        return re.fullmatch(r"([\w+/-]{4})*([\w+/-]{2}==|[\w+/-]{3}=)?", value) is not None
    expected = FORMATS.get(form) or schema.get("pattern")
    return expected is None or re.fullmatch(expected, value) is not None


def _misuse(schema: Json, path: str) -> Iterator[str]:
    """Yield whether a field is not for requests, or should no longer be used: Google would ignore the former."""
    if schema.get("readOnly") or re.match(r"\[?output[ -]only", schema.get("description", ""), re.IGNORECASE):
        yield f"Field '{path}' is output only."
    if schema.get("deprecated"):
        yield f"Field '{path}' is deprecated: {schema.get('description', '')}"


def _is_required(schema: Json, of_method: str) -> bool:
    if schema.get("deprecated"):
        return False
    return (
        schema.get("required", False) is True
        or of_method in schema.get("annotations", {}).get("required", [])
        or schema.get("description", "").startswith("Required.")
    )


def _snake(name: str) -> str:
    """Return how Google names a field in messages."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: f"_{match[1].lower()}", name)
