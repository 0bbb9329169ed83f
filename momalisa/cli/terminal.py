"""Output of the commands: sentences for people, JSON for programs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from momalisa import settings
from momalisa.errors import MomalisaError

console = Console(highlight=False)


class Stopped(BaseException):
    """A signal asked the command to stop."""


@contextmanager
def errors_as_sentences(exit_code_when_stopped: int = 130) -> Iterator[None]:
    """Print errors of a block as sentences and exit with 1; after `Stopped`, exit with the given code."""
    try:
        yield
    except MomalisaError as error:
        fail(str(error))
    except ValidationError as error:
        fail(settings.explain(error))
    except Stopped:
        tell("Stopped.")
        raise typer.Exit(exit_code_when_stopped) from None


def fail(sentence: str) -> NoReturn:
    """Print an error to stderr, and exit with 1."""
    Console(stderr=True, highlight=False).print(sentence, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def tell(sentence: str) -> None:
    """Print a sentence."""
    console.print(sentence, markup=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    console.print(json.dumps(value, ensure_ascii=False, indent=2), markup=False, soft_wrap=True)
