"""What `liveprofile risk rules` and `liveprofile segments` share: check, apply and list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from cli.common import Call, print_json
from liveprofile.rules.definitions import Definition, DefinitionsError
from services.definitions import DefinitionKind, apply


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


def print_in_force(
    call: Call,
    source: str,
    found: Any,
    kind: DefinitionKind,
    more: Callable[[Any], str] = lambda definition: "",
) -> None:
    """Prints the rules or segments that jobs use.

    more: what a line has between version and state.
    """
    definitions = getattr(found, kind)
    width = max((len(each.id) for each in definitions), default=0)
    lines = (
        f"{each.id:<{width}}  {each.version:>3}  {more(each)}{each.state:<6}  {each.when}"
        for each in definitions
    )
    listed = [each.model_dump(mode="json") for each in definitions]
    call.print(
        {"source": source, "version": found.version, kind: listed},
        f"version {found.version}, from {source}",
        *lines,
    )


def apply_file(
    call: Call,
    kind: DefinitionKind,
    definitions: Sequence[Definition],
    file: Path,
    dry_run: bool,
    by: str,
) -> None:
    """Makes the topic equal to the definitions of the file, and prints the changes.

    Raises ServiceError, DefinitionsChangedError if somebody else writes at the same time.
    """
    applied = apply(None, call.settings, kind, definitions, by, dry_run=dry_run)
    lines = (
        f"{change.kind:<9}  {change.name}"
        + ("" if change.definition is None else f"  version {change.definition.version}")
        for change in applied.changes
    )
    listed = [change.as_json(kind.removesuffix("s")) for change in applied.changes]
    call.print({"file": str(file), "dry_run": dry_run, "changes": listed}, *lines)
