"""What each type of problem means, and what to do: the text behind the `type` of a problem document."""

import inspect
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus

from pydantic import BaseModel

from momalisa import errors
from momalisa.errors import MomalisaError

PATH = "/problems/"


class Kind(BaseModel):
    """A type of problem."""

    type: str
    title: str
    status: int
    meaning: str
    advice: str


@cache
def kinds() -> dict[str, Kind]:
    """Return all types of problems by the last part of their `type`: of our own errors, and of plain statuses."""
    plain = {
        slug(status): Kind(
            type=PATH + slug(status),
            title=status.phrase,
            status=status,
            meaning=f"{status.description or status.phrase}.",
            advice=_advice(status),
        )
        for status in HTTPStatus
        if status >= HTTPStatus.BAD_REQUEST
    }
    return plain | {error.type: _of(error) for error in _all(MomalisaError) if "type" in vars(error)}


def slug(status: HTTPStatus) -> str:
    """Return the type of a problem that is a plain HTTP status."""
    return status.phrase.lower().replace(" ", "-").replace("'", "")


def meaning(error: type[MomalisaError]) -> str:
    """Return what an error means, in a sentence."""
    return inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _of(error: type[MomalisaError]) -> Kind:
    advice = inspect.cleandoc(error.__doc__ or "").partition("\n\n")[2].replace("\n", " ")
    return Kind(
        type=PATH + error.type,
        title=error.title,
        status=error.status,
        meaning=meaning(error),
        advice=advice or _advice(error.status),
    )


def _all(error: type[MomalisaError]) -> Iterator[type[MomalisaError]]:
    if error.__module__ == errors.__name__:
        yield error
    for narrower in error.__subclasses__():
        yield from _all(narrower)


def _advice(status: HTTPStatus) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return (
            "This is not your doing. Try again in a while; if it stays, tell an operator of this site the "
            "X-Request-Id of the answer."
        )
    return "Read the detail of the problem, change the request accordingly, and send it again."
