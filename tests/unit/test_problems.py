"""Every error that can reach a client has a problem type."""

import ast
from collections.abc import Iterator

import pytest

from api.problems import catalog
from momalisa import errors
from momalisa.errors import MomalisaError
from momalisa.settings import ROOT

INTERNAL = {
    "AddressRefusedError",
    "KeyNotFoundError",
    "KeysLostError",
    "LeaseLostError",
    "LocalSystemError",
    "ModelError",
    "ObjectCorruptError",
    "ObjectConflictError",
    "PortTakenError",
    "RendererBusyError",
    "RendererError",
    "SchemaError",
}
"""Errors of workers and commands, which are never raised during a request."""


def derived(error: type[MomalisaError]) -> Iterator[type[MomalisaError]]:
    for each in error.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from derived(each)


@pytest.mark.parametrize("error", sorted(derived(MomalisaError), key=str))
def test_every_error_that_can_reach_a_client_has_a_problem_type(error: type[MomalisaError]) -> None:
    unexpected = catalog.of(error) is catalog.CATALOG[MomalisaError]
    assert unexpected == (error.__name__ in INTERNAL), "give it an entry in api/problems/catalog.py"


def test_the_api_and_the_walks_raise_no_internal_error() -> None:
    sources = [path for folder in ("api", "momalisa/walks") for path in (ROOT / folder).rglob("*.py")]
    named = {
        (path.name, node.id)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in INTERNAL
    }
    assert not named


def test_problem_types_are_unique() -> None:
    types = [kind.type for kind in catalog.CATALOG.values()]
    assert len(types) == len(set(types))
