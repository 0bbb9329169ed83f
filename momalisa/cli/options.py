"""Options of the command line that derive from the settings of a walk."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from momalisa.domain.spec import SETTINGS, Setting, value_type

PANELS = {
    "Options": ("exact", "large"),
    "Motion": (
        *("frames", "leg_frames", "pacing", "easing", "weights", "hold", "loop", "interpolation"),
        *("seed", "seed_to", "seeds", "fps"),
    ),
    "Pictures": (
        *("model", "width", "height", "steps", "guidance", "scheduler"),
        *("negative_prompt", "negative_prompts"),
    ),
}
"""The settings of a walk as the help shows them."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each setting of a walk; it gets them as `**options`, None if omitted."""
    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind != inspect.Parameter.VAR_KEYWORD]
    derived = [_option(name, SETTINGS[name], panel) for panel, names in PANELS.items() for name in names]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [*(each.replace(kind=keyword) for each in own), *derived]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _option(name: str, setting: Setting, panel: str) -> inspect.Parameter:
    kind = value_type(name)
    several = get_origin(kind) is tuple
    each = _plain(get_args(kind)[0] if several else kind)
    # The server validates values: it may accept more of them than this version knows.
    typed: Any = list[str] if several else each
    shown = setting.default not in {None, ""} and setting.default is not False and get_origin(kind) is not Literal
    default = str(setting.default) if shown else False
    option = typer.Option(
        help=f"{setting.help}{_values(kind, setting)}",
        show_default=default,
        metavar=f"{_METAVARS[each]},…" if several and each is not str else _METAVARS.get(each),
        rich_help_panel=panel,
        callback=_numbers(each) if several and each is not str else None,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[typed | None, option]
    )


_METAVARS: dict[type, str] = {int: "N", float: "X", str: "TEXT"}


def _plain(kind: Any) -> type:
    """Return the type of a value on the command line."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return plain if plain in {int, float, bool} else str


def _numbers(kind: type) -> Callable[[Sequence[str] | None], list[Any] | None]:
    """Return the callback of an option that takes numbers separated by commas, and may be repeated."""

    def read(values: Sequence[str] | None) -> list[Any] | None:
        if values is None:
            return None
        try:
            return [kind(each) for value in values for each in value.split(",")]
        except ValueError:
            raise typer.BadParameter(f"numbers such as 1,2,3 are needed, got {','.join(values)}") from None

    return read


def _values(kind: Any, setting: Setting) -> str:
    if get_origin(kind) is Literal:
        names = (f"{each} (default)" if each == setting.default else each for each in get_args(kind))
        return f" {', '.join(names)}."
    if {"ge", "le"} <= setting.limits.keys():
        return f" {setting.limits['ge']} to {setting.limits['le']}."
    return ""
