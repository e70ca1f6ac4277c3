"""What holds for every command: an example in its help, JSON where a program reads the output."""

import re
import shlex

import pytest

from cli.main import GROUPS, START
from tests.support.commands import ROOT_COMMAND, commands, parse

# Commands that print nothing, or a file format of their own.
WITHOUT_OUTPUT = {"serve chores"}
COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_accepts(name: str) -> None:
    help_text = " ".join(COMMANDS[name].help.split())
    assert "Example: " in help_text
    _, _, text = help_text.partition("Example: ")
    examples = re.findall(r"`(liveprofile [^`]+)`", text) or [text]
    assert any(f"{each} ".startswith(f"liveprofile {name} ") for each in examples)
    for example in examples:
        parse(shlex.split(example)[1:])


@pytest.mark.parametrize("name", COMMANDS)
def test_output_can_be_read_by_a_program_and_each_option_has_a_help_text(name: str) -> None:
    command, options = COMMANDS[name], set()
    for parameter in command.params:
        options |= set(parameter.opts)
        if parameter.name != "help" and parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name}: {parameter.opts}"
    is_json = "--json" in options or "last line is JSON" in " ".join(command.help.split())
    assert is_json or name in WITHOUT_OUTPUT


def test_groups_are_few_and_in_panels() -> None:
    panels = {START, *(group.panel for group in GROUPS)}
    assert len(ROOT_COMMAND.commands) == 14  # 12 groups, demo and doctor
    assert all(command.rich_help_panel in panels for command in ROOT_COMMAND.commands.values())
