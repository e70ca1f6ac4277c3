"""Commands whose options are described in their docstrings.

A command with a parameter of the type `Call` has the options --config and --json, of the type
`JobCall` also --pipeline.
"""

import copy
import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from cli.common import CALL_OPTIONS, Call, JobCall

SECTION = "\nOptions:\n"
Command = TypeVar("Command", bound=Callable[..., None])
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class Commands(typer.Typer):
    """A group of commands. Their docstrings describe their options, as `described` reads them."""

    def __init__(self, **options: Any):
        runs_alone = options.get("invoke_without_command", False)
        super().__init__(**({"no_args_is_help": not runs_alone} | options))

    def command(self, *args: Any, **options: Any) -> Decorator:
        register = super().command(*args, **options)
        return lambda function: register(with_options_of_call(described(function)))

    def callback(self, *args: Any, **options: Any) -> Decorator:
        register = super().callback(*args, **options)
        return lambda function: register(with_options_of_call(described(function)))


def lazily(load: Callable[[], typer.Typer]) -> type[TyperGroup]:
    """A class of groups whose commands are imported when one of them is needed."""

    class LazyGroup(TyperGroup):
        @property
        def commands(self) -> dict[str, Any]:
            if "loaded" not in vars(self):
                self.loaded = typer.main.get_group(load()).commands
            return self.loaded

        @commands.setter
        def commands(self, none_yet: dict[str, Any]) -> None:
            pass

    return LazyGroup


def with_options_of_call(function: Callable[..., None]) -> Callable[..., None]:
    """Replaces the parameter of the type `Call`, if there is one, by the options that it has."""
    hints = get_type_hints(function, include_extras=True)
    name = next((name for name, hint in hints.items() if hint in CALL_OPTIONS), None)
    if name is None:
        return function
    kind = hints.pop(name)
    options = CALL_OPTIONS[kind]

    @wraps(function)
    def run(**given: Any) -> None:
        own = {option: given.pop(option) for option in options}
        ends = []  # a warning about one job hides no other job
        for call in JobCall.each(**own) if kind is JobCall else [Call(**own)]:
            try:
                function(**{name: call}, **given)
            except typer.Exit as end:
                ends.append(end)
        if ends:
            raise ends[0]

    parameters = dict(inspect.signature(function).parameters)
    del parameters[name]
    kept = [each.replace(annotation=hints[each.name]) for each in parameters.values()]
    added = [
        inspect.Parameter(
            option,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if option == "json" else None,
            annotation=hint,
        )
        for option, hint in options.items()
    ]
    run.__annotations__ = hints | options
    run.__signature__ = inspect.Signature([*kept, *added])
    return run


def described(function: Command) -> Command:
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
