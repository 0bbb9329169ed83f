"""The rows of the matrix of faults."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.stage import Stage


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    part: str
    name: str
    inject: Callable[[Stage], None]
    """Raises Miss if there was nothing to hit."""


class Miss(Exception):  # noqa: N818
    """There was nothing to hit."""


MATRIX: list[Fault] = []


def row(part: str, name: str) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Register a function as a fault."""

    def put(inject: Callable[[Stage], None]) -> Callable[[Stage], None]:
        MATRIX.append(Fault(part, name, inject))
        return inject

    return put
