"""The commands that `liveprofile risk rules` and `liveprofile segments` share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import ByOption, Call, print_json, table
from cli.options import Commands
from liveprofile.rules.definition_kinds import DefinitionsError
from services import definitions as service
from services.definitions import KINDS, KindName, read_definitions, read_kind

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Definitions (TOML).")]

CHECK = """Check a {kind} file without connecting to Kafka. Exit code 2 if it has errors.

Each error is one line. With --json an error has file, line, id, key, column (in a condition) and
reason.

Example: `liveprofile {group} check {kind}.toml`
"""
APPLY = """Apply a {kind} file: running jobs use it within seconds.

What has changed is written to the topic of the {kind} with the next version; what the file lacks
is removed from it. If the file has an error, nothing is written. From then on jobs use the topic
instead of the file in their settings. The records are signed if the setting rules_signing_key is
set.

Example: `liveprofile {group} apply {kind}.toml --dry-run`

Options:
dry_run: Print the changes without applying them.
"""
LIST = """List the current {kind}: those of the topic, or of the file while the topic has none.

Example: `liveprofile {group} list --json`
"""


def add_commands(commands: Commands, kind: KindName, group: str, columns: str) -> None:
    """Adds check, apply and list. group: as it is typed; columns: of the list."""
    singular = KINDS[kind].error.kind

    def read(call: Call, file: Path) -> Any:
        return read_definitions(kind, file, lambda: call.settings)

    def check(call: Call, file: FileArgument) -> None:
        check_file(call, file, kind, lambda path: read(call, path))

    def apply(
        call: Call, file: FileArgument, dry_run: bool = False, by: ByOption = "unknown"
    ) -> None:
        found = getattr(read(call, file), kind)
        applied = service.apply(None, call.settings, kind, found, by, dry_run=dry_run)
        changes = [each.as_json(singular) for each in applied.changes]
        call.print(
            {"file": str(file), "dry_run": dry_run, "changes": changes},
            table(None, changes, f"what {singular}_id version"),
        )

    def list_(call: Call) -> None:
        source, found, _ = read_kind(call.settings, kind)
        listed = [each.model_dump(mode="json") for each in getattr(found, kind)]
        call.print(
            {"source": source, "version": found.version, kind: listed},
            f"version {found.version}, from {source}",
            table(None, listed, columns),
        )

    for name, function, text in (
        ("check", check, CHECK),
        ("apply", apply, APPLY),
        ("list", list_, LIST),
    ):
        function.__doc__ = text.format(kind=kind, group=group)
        commands.command(name)(function)


def check_file(call: Call, file: Path, kind: str, read: Callable[[Path], Any]) -> None:
    """Prints whether a definitions file is valid. Exits with 2 if it has errors.

    kind: such as "rules"; read: reads the file into a set with `version` and the attribute `kind`.
    """
    try:
        found = read(file)
    except DefinitionsError as error:
        if call.json:
            problems = [{"file": str(file)} | problem for problem in error.as_json()]
            print_json({"ok": False, "problems": problems})
        else:
            for line in error.lines():
                typer.echo(f"liveprofile: {line}", err=True)
        raise typer.Exit(error.exit_code) from None
    count = len(getattr(found, kind))
    call.print(
        {"ok": True, "version": found.version, kind: count},
        f"{file}: version {found.version}, {count} {kind}, no errors",
    )
