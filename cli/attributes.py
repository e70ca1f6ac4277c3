"""`liveprofile attributes`: sends and stores what other systems state, and shows all attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.common import (
    Call,
    FaultReporter,
    MappingOption,
    UserArgument,
    end_without_result,
    refuse_empty,
    table,
    time_option,
)
from cli.options import Commands
from cli.progress import print_line
from cli.rules_and_segments import check_file
from intake.attribute_files import FileFields, FileProblem, read_statements
from liveprofile.attributes.catalogue import read_catalogue
from liveprofile.attributes.computed import values_at
from liveprofile.attributes.statements import (
    SOURCE_PATTERN,
    Attribute,
    Purpose,
    StatementKind,
    resolve,
)
from liveprofile.attributes.table import (
    AttributeTable,
    apply_records,
    send_statements,
    send_withdrawal,
)
from liveprofile.errors import InputError
from liveprofile.storage import queries
from liveprofile.storage.cql import now_ms
from liveprofile.wire.attribute_tiles import TILES_KEY

attributes = Commands()

PREVIEW_COLUMNS = "attribute users unknown zero median p90 p99 largest examples"


@attributes.command()
def check(call: Call, file: Path) -> None:
    """Check the definitions of attributes. Exit code 2 if they have errors.

    Example: `liveprofile attributes check attributes.toml`

    Options:
    file FILE: Definitions (TOML).
    """
    check_file(call, file, "attributes", partial(read_catalogue, call.settings))


@attributes.command()
def preview(
    call: Call,
    definitions: Path,
    file: Path,
    mapping: MappingOption = None,
    at: Annotated[int | None, time_option("--at")] = None,
) -> None:
    """Compute the computed attributes of a file of definitions over past events.

    Prints for each attribute how its values are distributed over the users, and the users with the
    largest. Runs the job's own SQL in an embedded Flink; stores nothing and connects to nothing.

    Example: `liveprofile attributes preview attributes.toml shop.csv --mapping shop.toml`

    Options:
    definitions FILE: Definitions (TOML).
    file EVENTS: CSV, Parquet or JSON lines, as for `events replay`.
    at TIME: When (UTC), such as 2026-11-26T01:00. Default: after the last event.
    """
    from offline import attribute_preview as runner

    found = runner.preview(call.settings, call.file, definitions, file, mapping, at, print_line)
    call.print([each._asdict() for each in found], table(str(definitions), found, PREVIEW_COLUMNS))


@attributes.command()
def send(
    call: Call,
    file: Path,
    source: Annotated[str, typer.Option()],
    kind: Annotated[StatementKind, typer.Option()],
    purpose: Annotated[Purpose, typer.Option()],
    valid_days: Annotated[float | None, typer.Option(min=0.001, max=3_660)] = None,
    at: Annotated[int | None, time_option("--time")] = None,
    dry_run: bool = False,
) -> None:
    """Send the attributes of a file to the topic user-attributes.

    All rows are checked first; if one is invalid, nothing is sent (exit code 2), and the first ten
    faults are printed, with --json all. Sending a file again changes nothing, if its rows have a
    time or --time is the same.

    Example: `liveprofile attributes send crm.csv --source crm --kind declared --purpose marketing
    --valid-days 365`

    Options:
    file FILE: CSV with a header.
    source NAME: Who says so.
    kind: How it is known.
    purpose: marketing (segments), risk (rules) or any (both).
    valid_days: Rows without an expiry expire so many days after their time.
    at TIME: Time of rows without one (UTC), such as 2026-11-26T01:00. Default: now.
    dry_run: Check the rows without sending them.
    """
    settings, clock_ms = call.settings, now_ms()
    catalogue = read_catalogue(settings)
    time_ms = clock_ms if at is None else at
    fields = FileFields(source, kind, purpose, time_ms, valid_days)
    latest_ms = clock_ms + settings.limits.max_clock_skew_ms
    problems: list[FileProblem] = []
    valid = sum(1 for _ in read_statements(file, catalogue, fields, latest_ms, problems.append))
    if problems:
        reporter = FaultReporter(file)
        for each in problems:
            reporter(each)
        if call.json:
            call.print({"valid": valid, "problems": [each._asdict() for each in problems]})
        raise InputError(f"{file}: {len(problems)} rows are invalid; nothing is sent")
    sent = 0
    if not dry_run:
        statements = read_statements(file, catalogue, fields, latest_ms, problems.append)
        sent = send_statements(settings, statements)
    if problems:
        raise InputError(f"{file} was changed while it was sent; send it again")
    call.print({"valid": valid, "sent": sent, "topic": settings.topics.attributes})


@attributes.command()
def apply(call: Call) -> None:
    """Store what has been sent to the topic, up to its present end.

    Goes on where the last run has ended. A run that is killed loses nothing, and storing a record
    again changes nothing. Invalid records are skipped and reported; exit code 1 if there are any.

    Example: `liveprofile attributes apply`
    """
    settings, topic = call.settings, call.settings.topics.attributes
    catalogue = read_catalogue(settings)
    reporter = FaultReporter(topic)
    with call.session() as session:
        progress = apply_records(
            settings,
            catalogue,
            AttributeTable(session, settings.cassandra).write,
            lambda each: reporter.add(
                f"{topic}/{each.partition} offset {each.offset}", each.reason
            ),
        )
    call.print(progress._asdict())
    if progress.rejected:
        raise typer.Exit(1)


@attributes.command()
def show(call: Call, user: UserArgument) -> None:
    """Show a user's attributes with their sources and expiry. Exit code 1 if there are none.

    Example: `liveprofile attributes show 42`
    """
    with call.session() as session:
        profile = queries.profile(session, user)
        found = user_attributes(
            AttributeTable(session, call.settings.cassandra), user, profile and profile.profile
        )
    if found or call.json:
        call.print(found, attribute_table(found))
    if not found:
        end_without_result(f"no attributes of user {user!r}")


@attributes.command()
def withdraw(
    call: Call, user: UserArgument, source: Annotated[str, typer.Option(callback=refuse_empty)]
) -> None:
    """Withdraw all that a source has said of a user, once `apply` has read it.

    Example: `liveprofile attributes withdraw 42 --source crm`

    Options:
    source NAME: Whose statements.
    """
    if not re.match(SOURCE_PATTERN, source):
        raise InputError(f"--source {source!r}: must match {SOURCE_PATTERN}")
    send_withdrawal(call.settings, user, source)
    call.print({"sent": 1, "topic": call.settings.topics.attributes})


def user_attributes(
    stored: AttributeTable, user_id: str, profile: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """What somebody has said for any use, and the job computes, as of now. profile: its JSON."""
    at_ms = now_ms()
    computed = values_at((profile or {}).get(TILES_KEY, {}), at_ms)
    stated = resolve(stored.read([user_id]).get(user_id, ()), at_ms)
    others = dict.fromkeys(Attribute._fields)
    return {
        name: others | {"value": value, "kind": "computed"}
        for name, value in computed.items()
        if value is not None
    } | {name: each._asdict() for name, each in stated.items()}


def attribute_table(found: dict[str, dict[str, Any]]) -> Table:
    rows = [{"attribute": name} | each for name, each in found.items()]
    columns = "attribute value kind source time_ms expires_ms purpose"
    return table("Attributes, stated by others or computed", rows, columns)
