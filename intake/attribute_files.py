"""Statements from a CSV file with a row for each user.

The column user_id is a field, and time and expires are fields of a row that has them; every other
column is an attribute. An empty value is no value.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from liveprofile.attributes.catalogue import Catalogue
from liveprofile.attributes.statements import (
    Purpose,
    Statement,
    StatementError,
    StatementKind,
    new_statement,
)
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

_FIELDS = ("user_id", "time", "expires")


class FileFields(NamedTuple):
    """The fields of all rows; the last two of rows that lack them."""

    source: str
    kind: StatementKind
    purpose: Purpose
    time_ms: int
    valid_days: float | None  # from the time to the expiry; None: the row must have an expiry


class FileProblem(NamedTuple):
    """A fault of a row; rows count from 1, without the header."""

    row: int
    reason: str


def read_statements(
    path: Path,
    catalogue: Catalogue,
    fields: FileFields,
    latest_ms: int,
    on_problem: Callable[[FileProblem], None],
) -> Iterator[Statement]:
    """The valid statements of a file, in constant memory; `on_problem` gets the others.

    latest_ms: statements of a later time are in the future. Raises InputError if the file cannot be
    read, has another format, or has a column that is neither a field nor an attribute.
    """
    for number, row in enumerate(_rows(path, catalogue), 1):
        try:
            statement = _statement(row, catalogue, fields)
            if statement.time_ms > latest_ms:
                raise StatementError("time: is in the future")
            if problems := catalogue.value_problems(statement.values):
                raise StatementError(problems[0])
        except StatementError as error:
            on_problem(FileProblem(number, str(error)))
        else:
            yield statement


def _rows(path: Path, catalogue: Catalogue) -> Iterator[Mapping[str, str]]:
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: the name must end with .csv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as texts:
            reader = csv.DictReader(texts, restkey="", strict=True)
            names = reader.fieldnames or ()
            if unknown := [name for name in names if name not in {*_FIELDS, *catalogue.by_id}]:
                raise InputError(f"{path}: {catalogue.unknown(unknown[0])}: define or rename it")
            if "user_id" not in names:
                raise InputError(f"{path}: no column user_id; it has {', '.join(names)}")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from None


def _statement(row: Mapping[str, str], catalogue: Catalogue, fields: FileFields) -> Statement:
    values = {name: text for name, text in row.items() if text}
    if "" in values:
        raise StatementError("has more values than the header has columns")
    time_ms, days = fields.time_ms, fields.valid_days
    if "time" in values:
        time_ms = _time_ms("time", values.pop("time"))
    if "expires" in values:
        expires_ms = _time_ms("expires", values.pop("expires"))
    elif days is None:
        raise StatementError("expires: is missing; give --valid-days")
    else:
        expires_ms = time_ms + round(days * DAY_MS)
    return new_statement(
        user_id=values.pop("user_id", ""),
        source=fields.source,
        kind=fields.kind,
        purpose=fields.purpose,
        time_ms=time_ms,
        expires_ms=expires_ms,
        values={name: catalogue.by_id[name].parse(text) for name, text in values.items()},
    )


def _time_ms(name: str, text: str) -> int:
    """Epoch milliseconds of an ISO text; UTC if it has no zone."""
    try:
        moment = datetime.fromisoformat(text)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
    except (ValueError, OverflowError):
        raise StatementError(f"{name}: must be a time such as 2026-01-05T09:35") from None
