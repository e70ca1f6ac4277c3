"""The commands of `liveprofile`, for tests of their help and of texts that name them."""

from collections.abc import Iterator, Sequence
from typing import Any

from typer.main import get_command

from cli.main import app

ROOT_COMMAND = get_command(app)


def commands(command: Any = ROOT_COMMAND, *path: str) -> Iterator[tuple[str, Any]]:
    """All commands that do something, as they are typed, and those groups that do too."""
    below = getattr(command, "commands", {})
    if path and (not below or command.invoke_without_command):
        yield " ".join(path), command
    for name, other in below.items():
        yield from commands(other, *path, name)


def parse(arguments: Sequence[str], command: Any = ROOT_COMMAND) -> None:
    """Parses arguments without running the command. Fails for an unknown option or a bad value."""
    context = command.make_context("liveprofile", list(arguments), resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    if rest and hasattr(command, "get_command"):
        other = command.get_command(context, rest[0])
        assert other is not None, f"no command {rest[0]}"
        parse(rest[1:], other)
