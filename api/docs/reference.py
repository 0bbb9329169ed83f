"""The OpenAPI document as the page `/docs` shows it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import FastAPI
from markupsafe import Markup, escape

REF = "#/components/schemas/"

LIMITS = {"array": ("minItems", "maxItems", " items"), "string": ("minLength", "maxLength", " characters")}
"""By type: the names of its limits, and their unit."""

Schema = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """A field of a schema, or a parameter of an operation."""

    name: str
    type: Markup
    description: Markup
    notes: str = ""
    """Whether it is required, where a parameter is sent, the default."""


@dataclass(frozen=True)
class Answer:
    """A response that is no error."""

    status: str
    description: Markup
    type: Markup
    example: str


@dataclass(frozen=True)
class Operation:
    """An operation, or a webhook."""

    id: str
    method: str
    path: str
    summary: str
    description: Markup
    parameters: list[Field]
    body: Markup
    body_example: str
    answers: list[Answer]
    problems: list[tuple[str, str]]
    """Status and problem type, without those that all operations have."""


@dataclass(frozen=True)
class Reference:
    """The whole page."""

    groups: list[tuple[str, list[Operation]]]
    """Operations by tag."""
    schemas: list[tuple[str, Markup, list[Field]]]
    """The name, description and fields of each schema."""
    problems: list[tuple[str, str]]
    """Status and problem type of those that all operations have."""


@cache
def of(app: FastAPI) -> Reference:
    """Return the reference of an app."""
    document = app.openapi()
    found = [
        (path, method.upper(), operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    found += [("", "Webhook", operation["post"]) for operation in document["webhooks"].values()]
    shared = set.intersection(*(set(_problems(each)) for _, method, each in found if method != "Webhook"))
    groups: dict[str, list[Operation]] = {}
    for path, method, operation in found:
        groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation, shared))
    return Reference(
        groups=list(groups.items()),
        schemas=[
            (name, described(schema.get("description", "")), _fields(schema))
            for name, schema in sorted(document["components"]["schemas"].items())
        ],
        problems=sorted(shared),
    )


def _operation(path: str, method: str, operation: dict[str, Any], shared: set[tuple[str, str]]) -> Operation:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return Operation(
        id=operation["operationId"],
        method=method,
        path=path,
        summary=operation["summary"],
        description=described(operation["description"]),
        parameters=[
            Field(
                each["name"],
                kind(each["schema"]),
                described(each["description"]),
                _notes(each["in"], "required" if each.get("required") else "", _default(each["schema"])),
            )
            for each in operation.get("parameters", [])
        ],
        body=kind(content["schema"]) if content else Markup(),
        body_example=_example(content),
        answers=[_answer(status, each) for status, each in operation["responses"].items() if status < "400"],
        problems=sorted(set(_problems(operation)) - shared),
    )


def _answer(status: str, response: dict[str, Any]) -> Answer:
    contents: list[tuple[str, Schema]] = list(response.get("content", {}).items())
    media, content = contents[0] if contents else ("", {})
    type_ = kind(content["schema"]) if "schema" in content else escape(media)
    return Answer(status, described(response["description"]), type_, _example(content))


def _example(content: Schema) -> str:
    """Return the first example of a content; empty if there is none."""
    examples = [content.get("example"), *(each["value"] for each in content.get("examples", {}).values())]
    shown = next(filter(None, examples), None)
    return "" if shown is None else json.dumps(shown, indent=2, ensure_ascii=False)


def _problems(operation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for status, response in operation["responses"].items():
        for slug in response.get("content", {}).get("application/problem+json", {}).get("examples", {}):
            yield status, slug


def _fields(schema: Schema) -> list[Field]:
    required = schema.get("required", [])
    return [
        Field(
            name,
            kind(each),
            described(each.get("description", "")),
            _notes("required" if name in required and "default" not in each else "", _default(each)),
        )
        for name, each in schema.get("properties", {}).items()
    ]


def _notes(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default is None or default == [] else f"default {default}"


def kind(schema: Schema) -> Markup:
    """Return the type of a value with its limits, with links to schemas."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REF)
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return Markup(" or ").join(map(kind, choices))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return Markup(", ").join(map(_code, values))
    name = schema.get("type", "any value")
    if name == "array":
        return Markup("list of ") + kind(schema.get("items", {})) + _limits(schema)
    if name == "object" and isinstance(values := schema.get("additionalProperties"), dict):
        return Markup("object of ") + kind(values)
    return escape(schema.get("format", name)) + _limits(schema)


def _code(value: object) -> Markup:
    return Markup("<code>{}</code>").format(value)


def _limits(schema: Schema) -> str:
    """Return the limits of a value, or of its length."""
    lowest, highest, unit = LIMITS.get(schema.get("type", ""), ("minimum", "maximum", ""))
    match schema.get(lowest), schema.get(highest):
        case None, None:
            return ""
        case None, most:
            return f", at most {most:g}{unit}"
        case least, None:
            return f", at least {least:g}{unit}"
        case least, most:
            return f", {least:g} to {most:g}{unit}"


def described(text: str) -> Markup:
    """Return a description with its words in backticks as code."""
    parts = text.split("`")
    return Markup().join(_code(part) if index % 2 else escape(part) for index, part in enumerate(parts))
