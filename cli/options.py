"""Commands whose options are described in their docstrings."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

SECTION = "\nOptions:\n"


class Commands(typer.Typer):
    """A group of commands. Their docstrings describe their options, as `described` reads them."""

    def __init__(self, **options: Any):
        runs_alone = options.get("invoke_without_command", False)
        super().__init__(**({"no_args_is_help": not runs_alone} | options))

    def command(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        register = super().command(*args, **options)
        return lambda function: register(described(function))

    def callback(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        register = super().callback(*args, **options)
        return lambda function: register(described(function))


def described(function: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the help texts of arguments and options from the end of the docstring.

    It has a line such as `rate N: Events per second.` for each under `Options:`; N is how the help
    writes the value. Further lines of a text are indented. An option without a default value is an
    argument, one with the default False has no `--no-` form. Raises ValueError for an unknown name.
    """
    help_text, _, section = (inspect.getdoc(function) or "").partition(SECTION)
    if not section:
        return function
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    for entry in re.split(r"\n(?=\S)", section.strip()):
        described_as = re.fullmatch(r"(\w+)(?: (\S+))?: (.+)", entry, re.DOTALL)
        if described_as is None or described_as[1] not in parameters:
            raise ValueError(f"{function.__name__}: no option is described by {entry!r}")
        name, metavar, text = described_as.groups()
        kind, info = _split(hints[name], parameters[name])
        info.help, info.metavar = " ".join(text.split()), metavar or info.metavar
        function.__annotations__[name] = Annotated[kind, info]
    function.__doc__ = help_text
    return function


def _split(hint: Any, parameter: inspect.Parameter) -> tuple[Any, ArgumentInfo | OptionInfo]:
    """The type of an option, and what Typer knows about it."""
    kind, *more = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    if more:
        info = copy.copy(more[0])
    elif parameter.default is parameter.empty:
        info = typer.Argument()
    elif parameter.default is False:
        info = typer.Option(f"--{parameter.name.replace('_', '-')}")
    else:
        info = typer.Option()
    info.show_default = info.show_default and parameter.default not in (None, parameter.empty)
    return kind, info
