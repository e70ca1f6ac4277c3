"""What holds for every command: an example in its help, JSON where a program reads the output."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from cli.main import PANELS, app

# Commands that print nothing, or a file format of their own.
WITHOUT_OUTPUT = {"heartbeat"}
ROOT = get_command(app)


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """All commands that do something, as they are typed, and those groups that do too."""
    below = getattr(command, "commands", {})
    if not below or command.invoke_without_command:
        yield " ".join(path), command
    for name, other in below.items():
        yield from commands(other, *path, name)


COMMANDS = dict(commands(ROOT))
COMMANDS.pop("", None)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_accepts(name: str) -> None:
    help_text = " ".join(COMMANDS[name].help.split())
    assert "Example: " in help_text
    _, _, text = help_text.partition("Example: ")
    examples = re.findall(r"`(liveprofile [^`]+)`", text) or [text]
    assert any(f"{each} ".startswith(f"liveprofile {name} ") for each in examples)
    for example in examples:
        parse(ROOT, shlex.split(example)[1:])


def parse(command: Any, arguments: list[str]) -> None:
    """Parses arguments without running the command. Fails for an unknown option or a bad value."""
    context = command.make_context("liveprofile", list(arguments), resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    if rest and hasattr(command, "get_command"):
        other = command.get_command(context, rest[0])
        assert other is not None, f"no command {rest[0]}"
        parse(other, rest[1:])


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_OUTPUT))
def test_output_can_be_read_by_a_program(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert "--json" in options or "last line is JSON" in " ".join(COMMANDS[name].help.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_has_a_help_text(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if parameter.name != "help" and parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name}: {parameter.opts}"


def test_every_command_is_in_a_panel() -> None:
    registered = sum(map(len, PANELS.values()))
    assert len(ROOT.commands) == registered
    assert all(command.rich_help_panel in PANELS for command in ROOT.commands.values())
