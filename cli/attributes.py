"""`liveprofile attributes`: sends, stores and shows attributes from elsewhere."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.common import (
    Call,
    UserArgument,
    end_without_result,
    format_utc,
    parse_since_ms,
    refuse_empty,
    table,
)
from cli.definitions import check_file
from cli.options import Commands
from liveprofile.attributes.definitions import read_catalogue
from liveprofile.attributes.files import FileDefaults, FileProblem, read_statements
from liveprofile.attributes.statements import (
    KINDS,
    PURPOSES,
    SOURCE_PATTERN,
    Attribute,
    Statement,
    resolve,
)
from liveprofile.attributes.table import AttributeTable
from liveprofile.attributes.topic import (
    Progress,
    RejectedRecord,
    apply_records,
    send_statements,
    send_withdrawal,
)
from liveprofile.errors import InputError, ServiceUnavailableError
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms

attributes = Commands()

MAX_PRINTED = 10
FOLLOW_S = 2.0

FILE_OPTIONS = """
Options:
file FILE: CSV, Parquet or JSON lines, by the name's ending.
source NAME: Who says so, of rows without a source.
kind: Of rows without a kind: declared, third_party or verified.
purpose: Of rows without a purpose: marketing (segments), risk (rules) or any (both).
valid_days: Rows without an expiry expire so many days after their time.
time TIME: Time of rows without one (UTC), such as 2026-11-26T01:00. Default: now.
rename COLUMN=NAME: A column of the file and its name here; no name leaves the column out.
    Repeatable.
"""


def with_file_options(command: Callable[[Call, Path, FileDefaults], None]) -> Callable[..., None]:
    """Gives a command the options that say what rows of a file lack."""

    def run(
        call: Call,
        file: Path,
        source: str | None = None,
        kind: str | None = None,
        purpose: str | None = None,
        valid_days: Annotated[float | None, typer.Option(min=0.001, max=3_660)] = None,
        time: Annotated[
            int | None, typer.Option(parser=lambda text: parse_since_ms(text, "--time"))
        ] = None,
        rename: list[str] | None = None,
    ) -> None:
        command(call, file, _defaults(source, kind, purpose, valid_days, time, rename))

    # Without functools.wraps: typer would read the options of the wrapped function.
    run.__name__, run.__doc__ = command.__name__, f"{inspect.getdoc(command)}\n{FILE_OPTIONS}"
    return run


@attributes.command()
@with_file_options
def check(call: Call, file: Path, defaults: FileDefaults) -> None:
    """Check a file of attributes, or with .toml the definitions. Sends nothing.

    Exit code 2 if a row is invalid. Prints the first ten faults, with --json all.

    Example: `liveprofile attributes check crm.csv --source crm --kind declared --purpose marketing
    --valid-days 365`
    """
    if file.suffix == ".toml":
        check_file(call, file, "attributes", read_catalogue)
        return
    checker = _FileChecker(call.settings, file, defaults)
    valid = sum(1 for _ in checker.statements())
    problems = [problem._asdict() for problem in checker.problems]
    call.print(
        {"ok": not problems, "valid": valid, "problems": problems},
        f"{file}: {valid} valid rows, {len(problems)} with errors",
    )
    if problems:
        raise typer.Exit(2)


@attributes.command()
@with_file_options
def send(call: Call, file: Path, defaults: FileDefaults) -> None:
    """Send the attributes of a file to the topic user-attributes.

    All rows are checked first; if one is invalid, nothing is sent (exit code 2). Sending a file
    again changes nothing, if its rows have a time or --time is the same.

    Example: `liveprofile attributes send crm.csv --source crm --kind declared --purpose marketing
    --valid-days 365`
    """
    checker, topic = _FileChecker(call.settings, file, defaults), call.settings.topics.attributes
    for _ in checker.statements():
        pass
    if checker.problems:
        raise InputError(f"{file}: {len(checker.problems)} rows are invalid; nothing is sent")
    count = send_statements(call.settings, checker.statements())
    if checker.problems:
        raise InputError(f"{file} was changed while it was sent; send it again")
    call.print({"sent": count, "topic": topic}, f"{count} statements sent to {topic}")


@attributes.command()
def apply(call: Call) -> None:
    """Store what has been sent to the topic, up to its present end. Run it on a schedule.

    Goes on where the last run has ended. A run that is killed loses nothing, and storing a record
    again changes nothing. Invalid records are skipped and reported; exit code 1 if there are any.

    Example: `liveprofile attributes apply`
    """
    with _applier(call.settings) as run:
        progress = run()
    call.print(progress._asdict(), f"{progress.stored} stored, {progress.rejected} rejected")
    if progress.rejected:
        raise typer.Exit(1)


@attributes.command()
def follow(call: Call) -> None:
    """Store what is sent to the topic, every 2 seconds until it is stopped.

    Waits and goes on if Kafka or Cassandra do not answer. With --json it prints a line for each
    step that has stored or rejected records.

    Example: `liveprofile attributes follow`
    """
    with _applier(call.settings) as run:
        while True:
            try:
                progress = run()
                if any(progress):
                    line = f"{progress.stored} stored, {progress.rejected} rejected"
                    call.print(progress._asdict(), line)
            except ServiceUnavailableError as error:
                typer.echo(f"liveprofile: {error}; trying again", err=True)
            time.sleep(FOLLOW_S)


@attributes.command()
def show(call: Call, user: UserArgument) -> None:
    """Show a user's attributes with their sources and expiry. Exit code 1 if there are none.

    Example: `liveprofile attributes show 42`
    """
    with call.session() as session:
        found = user_attributes(AttributeTable(session, call.settings.cassandra), user)
    if found or call.json:
        call.print(
            {name: attribute._asdict() for name, attribute in found.items()},
            attribute_table(user, found),
        )
    if not found:
        end_without_result(f"no attributes of user {user!r}")


@attributes.command()
def withdraw(
    call: Call, user: UserArgument, source: Annotated[str, typer.Option(callback=refuse_empty)]
) -> None:
    """Withdraw all that a source has said of a user, once `apply` or `follow` has read it.

    Example: `liveprofile attributes withdraw 42 --source crm`

    Options:
    source NAME: Whose statements.
    """
    if not re.match(SOURCE_PATTERN, source):
        raise InputError(f"--source {source!r}: must match {SOURCE_PATTERN}")
    topic = call.settings.topics.attributes
    send_withdrawal(call.settings, user, source)
    call.print({"sent": 1, "topic": topic}, f"withdrawal sent to {topic}")


def user_attributes(stored: AttributeTable, user_id: str) -> dict[str, Attribute]:
    """The user's attributes now, for any use."""
    return resolve(stored.read([user_id]).get(user_id, ()), now_ms())


def attribute_table(user_id: str, found: dict[str, Attribute]) -> Table:
    """A row per attribute. It is what somebody has said, not what the model infers."""

    def value(pair: tuple[str, Attribute]) -> str:
        one = pair[1].value
        return str(one).lower() if isinstance(one, bool) else str(one)

    columns = {
        "attribute": "{[0]}",
        "value": value,
        "kind": "{[1].kind}",
        "source": "{[1].source}",
        "as of": lambda pair: format_utc(pair[1].time_ms),
        "expires": lambda pair: format_utc(pair[1].expires_ms),
        "purpose": "{[1].purpose}",
    }
    return table(f"Attributes of user {user_id}, as stated by others", found.items(), columns)


class _FileChecker:
    """Reads a file's statements, once or more often; keeps the problems of the last reading."""

    def __init__(self, settings: Settings, file: Path, defaults: FileDefaults):
        self._file, self._defaults = file, defaults
        self._catalogue = read_catalogue(product_path(settings.attributes))
        self._latest_ms = time.time_ns() // 1_000_000 + settings.limits.max_clock_skew_ms
        self.problems: list[FileProblem] = []

    def statements(self) -> Iterator[Statement]:
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
