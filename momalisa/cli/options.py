"""Options of the command line that derive from the settings of a walk."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from momalisa.domain.spec import SETTINGS, Setting, value_type


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each setting of a walk; it gets them as `**options`, None if omitted."""
    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind != inspect.Parameter.VAR_KEYWORD]
    derived = [_option(name, setting) for name, setting in SETTINGS.items()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [*(each.replace(kind=keyword) for each in own), *derived]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _option(name: str, setting: Setting) -> inspect.Parameter:
    kind = value_type(name)
    # The server validates values: it may accept more of them than this version knows.
    typed: Any = list[_plain(get_args(kind)[0])] if get_origin(kind) is tuple else _plain(kind)  # type: ignore[misc]
    default = False if setting.default in {None, ""} else str(setting.default)
    option = typer.Option(help=f"{setting.description}{_values(kind, setting)}", show_default=default)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[typed | None, option]
    )


def _plain(kind: Any) -> type:
    """Return the type of an option's values on the command line."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return plain if plain in {int, float, bool} else str


def _values(kind: Any, setting: Setting) -> str:
    if get_origin(kind) is Literal:
        return f" One of {', '.join(get_args(kind))}."
    if {"ge", "le"} <= setting.limits.keys():
        return f" {setting.limits['ge']} to {setting.limits['le']}."
    return ""
