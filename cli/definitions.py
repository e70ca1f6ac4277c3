"""What `liveprofile risk rules` and `liveprofile segments` share: check, apply and list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import typer

from cli.common import Call, print_json
from liveprofile.attributes.definitions import check_attributes
from liveprofile.rules.definitions import Definition, DefinitionsError, file_source
from liveprofile.rules.rules import RulesError
from liveprofile.segments.definitions import SegmentsError
from liveprofile.settings import Settings
from services.definitions import apply


def check_file(call: Call, file: Path, name: str, read: Callable[[Path], Any]) -> None:
    """Prints whether a definitions file is valid. Exits with 2 if it has errors.

    name: such as "rule"; read: reads the file into a set with `version` and f"{name}s".
    """
    plural = f"{name}s"
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
    count = len(getattr(found, plural))
    call.print(
        {"ok": True, "version": found.version, plural: count},
        f"{file}: version {found.version}, {count} {plural}, no errors",
    )


def print_in_force(
    call: Call,
    source: str,
    found: Any,
    name: str,
    more: Callable[[Any], str] = lambda definition: "",
) -> None:
    """Prints the rules or segments that jobs use.

    name: such as "rule". more: what a line has between version and state.
    """
    definitions = getattr(found, f"{name}s")
    width = max((len(each.id) for each in definitions), default=0)
    lines = (
        f"{each.id:<{width}}  {each.version:>3}  {more(each)}{each.state:<6}  {each.when}"
        for each in definitions
    )
    listed = [each.model_dump(mode="json") for each in definitions]
    call.print(
        {"source": source, "version": found.version, f"{name}s": listed},
        f"version {found.version}, from {source}",
        *lines,
    )


def read_with_attributes(
    read: Callable[[Path], Any], name: str, settings: Callable[[], Settings]
) -> Callable[[Path], Any]:
    """Reads a definitions file as `read` does, and checks the attributes that it reads.

    name: such as "rule". The settings, which name the file of attributes, are read only if a
    condition reads one.
    """

    def read_and_check(file: Path) -> Any:
        found = read(file)
        error = RulesError if name == "rule" else SegmentsError
        source, definitions = file_source(file, error), getattr(found, f"{name}s")
        check_attributes(source, error, definitions, lambda: settings().attributes)
        return found

    return read_and_check


def apply_file(
    call: Call,
    kind_name: Literal["rule", "segment"],
    definitions: Sequence[Definition],
    file: Path,
    dry_run: bool,
    by: str,
) -> None:
    """Makes the topic equal to the definitions of the file, and prints the changes.

    Raises ServiceError, DefinitionsChangedError if somebody else writes at the same time.
    """
    applied = apply(None, call.settings, f"{kind_name}s", definitions, by, dry_run=dry_run)
    lines = (
        f"{change.kind:<9}  {change.name}"
        + ("" if change.definition is None else f"  version {change.definition.version}")
        for change in applied.changes
    )
    listed = [change.as_json(kind_name) for change in applied.changes]
    call.print({"file": str(file), "dry_run": dry_run, "changes": listed}, *lines)
