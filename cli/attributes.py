"""`liveprofile attributes`: sends, stores and shows attributes from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    UserArgument,
    format_utc,
    parse_since_ms,
    print_json,
    read_settings,
    refuse_empty,
)
from cli.definitions import check_file
from cli.options import Commands
from liveprofile.errors import InputError, ServiceUnavailableError
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.attributes.files import FileDefaults, FileProblem
    from liveprofile.attributes.resolution import Attribute
    from liveprofile.attributes.statements import Statement
    from liveprofile.attributes.topic import Progress, RejectedRecord
    from liveprofile.settings import Settings

attributes = Commands(
    name="attributes",
    help="Send, store and show what others know about users: declared, third-party and verified"
    " attributes. docs/data-contract.md describes them.",
)

MAX_PRINTED = 10
FOLLOW_S = 2.0

FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="CSV, Parquet or JSON lines, by the name's ending."),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="Who says so, of rows without a source."),
]
KindOption = Annotated[
    str | None,
    typer.Option("--kind", help="Of rows without a kind: declared, third_party or verified."),
]
PurposeOption = Annotated[
    str | None,
    typer.Option(
        "--purpose",
        help="Of rows without a purpose: marketing (segments), risk (rules) or any (both).",
    ),
]
ValidDaysOption = Annotated[
    float | None,
    typer.Option(
        "--valid-days",
        min=0.001,
        max=3_660,
        help="Rows without an expiry expire so many days after their time.",
    ),
]


def _parse_time_ms(text: str) -> int:
    return parse_since_ms(text, "--time")


TimeOption = Annotated[
    int | None,
    typer.Option(
        "--time",
        metavar="TIME",
        parser=_parse_time_ms,
        show_default=False,
        help="Time of rows without one (UTC), such as 2026-11-26T01:00. Default: now.",
    ),
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="COLUMN=NAME",
        help="A column of the file and its name here; no name leaves the column out. Repeatable.",
    ),
]


def with_file_options(
    command: Callable[[Path, FileDefaults, Path | None, bool], None],
) -> Callable[..., None]:
    """Gives a command the options that say what rows of a file lack."""

    def run(
        file: FileArgument,
        source: SourceOption = None,
        kind: KindOption = None,
        purpose: PurposeOption = None,
        valid_days: ValidDaysOption = None,
        time: TimeOption = None,
        rename: RenameOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        defaults = _defaults(source, kind, purpose, valid_days, time, rename)
        command(file, defaults, config, json)

    # Without functools.wraps: typer would read the options of the wrapped function.
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@attributes.command()
@with_file_options
def check(file: Path, defaults: FileDefaults, config: Path | None, json: bool) -> None:
    """Check a file of attributes, or with .toml the definitions. Sends nothing.

    Exit code 2 if a row is invalid. Prints the first ten faults, with --json all.

    Example: `liveprofile attributes check crm.csv --source crm --kind declared --purpose marketing
    --valid-days 365`
    """
    from liveprofile.attributes.definitions import read_catalogue

    if file.suffix == ".toml":
        check_file(file, "attribute", read_catalogue, json)
        return
    settings = read_settings(config)
    checker = _FileChecker(settings, file, defaults)
    valid = sum(1 for _ in checker.statements())
    if json:
        problems = [problem._asdict() for problem in checker.problems]
        print_json({"ok": not problems, "valid": valid, "problems": problems})
    else:
        typer.echo(f"{file}: {valid} valid rows, {len(checker.problems)} with errors")
    if checker.problems:
        raise typer.Exit(2)


@attributes.command()
@with_file_options
def send(file: Path, defaults: FileDefaults, config: Path | None, json: bool) -> None:
    """Send the attributes of a file to the topic user-attributes.

    All rows are checked first; if one is invalid, nothing is sent (exit code 2). Sending a file
    again changes nothing, if its rows have a time or --time is the same.

    Example: `liveprofile attributes send crm.csv --source crm --kind declared --purpose marketing
    --valid-days 365`
    """
    from liveprofile.attributes.topic import send_statements

    settings = read_settings(config)
    checker = _FileChecker(settings, file, defaults)
    for _ in checker.statements():
        pass
    if checker.problems:
        raise InputError(f"{file}: {len(checker.problems)} rows are invalid; nothing is sent")
    count = send_statements(settings, checker.statements())
    if checker.problems:
        raise InputError(f"{file} was changed while it was sent; send it again")
    if json:
        print_json({"sent": count, "topic": settings.topics.attributes})
    else:
        typer.echo(f"{count} statements sent to {settings.topics.attributes}")


@attributes.command()
def apply(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Store what has been sent to the topic, up to its present end. Run it on a schedule.

    Goes on where the last run has ended. A run that is killed loses nothing, and storing a record
    again changes nothing. Invalid records are skipped and reported; exit code 1 if there are any.

    Example: `liveprofile attributes apply`
    """
    settings = read_settings(config)
    with _applier(settings) as run:
        progress = run()
    if json:
        print_json(progress._asdict())
    else:
        typer.echo(f"{progress.stored} stored, {progress.rejected} rejected")
    if progress.rejected:
        raise typer.Exit(1)


@attributes.command()
def follow(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Store what is sent to the topic, every 2 seconds until it is stopped.

    Waits and goes on if Kafka or Cassandra do not answer. With --json it prints a line for each
    step that has stored or rejected records.

    Example: `liveprofile attributes follow`
    """
    settings = read_settings(config)
    with _applier(settings) as run:
        while True:
            try:
                progress = run()
                if any(progress):
                    line = f"{progress.stored} stored, {progress.rejected} rejected"
                    print_json(progress._asdict()) if json else typer.echo(line)
            except ServiceUnavailableError as error:
                typer.echo(f"liveprofile: {error}; trying again", err=True)
            time.sleep(FOLLOW_S)


@attributes.command()
def show(user: UserArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show a user's attributes with their sources and expiry. Exit code 1 if there are none.

    Example: `liveprofile attributes show 42`
    """
    from cli.common import print_tables
    from liveprofile.attributes.table import AttributeTable
    from liveprofile.storage.connection import open_session

    settings = read_settings(config)
    with open_session(settings.cassandra) as session:
        found = user_attributes(AttributeTable(session, settings.cassandra), user)
    if json:
        print_json({name: attribute._asdict() for name, attribute in found.items()})
    elif found:
        print_tables(attribute_table(user, found))
    if not found:
        typer.echo(f"liveprofile: no attributes of user {user!r}", err=True)
        raise typer.Exit(1)


@attributes.command()
def withdraw(
    user: UserArgument,
    source: Annotated[str, typer.Option(callback=refuse_empty)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Withdraw all that a source has said of a user, once `apply` or `follow` has read it.

    Example: `liveprofile attributes withdraw 42 --source crm`

    Options:
    source NAME: Whose statements.
    """
    import re

    from liveprofile.attributes.statements import SOURCE_PATTERN
    from liveprofile.attributes.topic import send_withdrawal

    if not re.match(SOURCE_PATTERN, source):
        raise InputError(f"--source {source!r}: must match {SOURCE_PATTERN}")
    settings = read_settings(config)
    send_withdrawal(settings, user, source)
    if json:
        print_json({"sent": 1, "topic": settings.topics.attributes})
    else:
        typer.echo(f"withdrawal sent to {settings.topics.attributes}")


def user_attributes(table, user_id: str) -> dict[str, Attribute]:
    """The user's attributes now, for any use. table: an AttributeTable."""
    from liveprofile.attributes.resolution import resolve
    from liveprofile.storage.cql import now_ms

    return resolve(table.read([user_id]).get(user_id, ()), now_ms())


def attribute_table(user_id: str, found: dict[str, Attribute]):
    """A row per attribute. It is what somebody has said, not what the model infers."""
    from cli.common import new_table

    table = new_table(
        "attribute", "value", "kind", "source", "as of", "expires", "purpose",
        title=f"Attributes of user {user_id}, as stated by others",
    )  # fmt: skip
    for name, one in found.items():
        value = str(one.value).lower() if isinstance(one.value, bool) else str(one.value)
        times = (format_utc(one.time_ms), format_utc(one.expires_ms))
        table.add_row(name, value, one.kind, one.source, *times, one.purpose)
    return table


class _FileChecker:
    """Reads a file's statements, once or more often; keeps the problems of the last reading."""

    def __init__(self, settings: Settings, file: Path, defaults: FileDefaults):
        from liveprofile.attributes.definitions import read_catalogue

        self._file, self._defaults = file, defaults
        self._catalogue = read_catalogue(product_path(settings.attributes))
        self._latest_ms = time.time_ns() // 1_000_000 + settings.limits.max_clock_skew_ms
        self.problems: list[FileProblem] = []

    def statements(self) -> Iterator[Statement]:
        from liveprofile.attributes.files import read_statements

        self.problems = []
        yield from read_statements(
            self._file, self._catalogue, self._defaults, self._latest_ms, self._report
        )

    def _report(self, problem: FileProblem) -> None:
        self.problems.append(problem)
        if len(self.problems) <= MAX_PRINTED:
            typer.echo(f"{self._file} row {problem.row}: {problem.reason}", err=True)


def _defaults(
    source: str | None,
    kind: str | None,
    purpose: str | None,
    valid_days: float | None,
    time_ms: int | None,
    rename: list[str] | None,
) -> FileDefaults:
    from liveprofile.attributes.files import FileDefaults
    from liveprofile.attributes.statements import KINDS, PURPOSES

    for option, value, known in (("--kind", kind, KINDS), ("--purpose", purpose, PURPOSES)):
        if value is not None and value not in known:
            raise InputError(f"{option} {value!r}: must be one of {', '.join(known)}")
    renamed = {}
    for each in rename or ():
        column, equals, name = each.partition("=")
        if not equals or not column:
            raise InputError(f"--rename {each!r}: must be COLUMN=NAME")
        renamed[column] = name
    now_ms = time.time_ns() // 1_000_000
    return FileDefaults(
        now_ms if time_ms is None else time_ms, valid_days, source, kind, purpose, renamed
    )


@contextmanager
def _applier(settings: Settings) -> Iterator:
    """A function that stores the records up to the topic's end and returns the Progress."""
    from liveprofile.attributes.definitions import read_catalogue
    from liveprofile.attributes.table import AttributeTable
    from liveprofile.attributes.topic import apply_records
    from liveprofile.storage.connection import open_session

    catalogue = read_catalogue(product_path(settings.attributes))
    printed = 0

    def on_rejected(rejected: RejectedRecord) -> None:
        nonlocal printed
        printed += 1
        if printed <= MAX_PRINTED:
            place = f"{settings.topics.attributes}/{rejected.partition} offset {rejected.offset}"
            typer.echo(f"{place}: {rejected.reason}", err=True)

    with open_session(settings.cassandra) as session:
        table = AttributeTable(session, settings.cassandra)

        def run() -> Progress:
            nonlocal printed
            printed = 0
            return apply_records(settings, catalogue, table.write, on_rejected)

        yield run
