"""Statements from a file: CSV or JSON lines, with a row for each user.

The columns user_id, time, expires, source, kind and purpose are fields, which options may give for
all rows; every other column is an attribute. An empty value is no value.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from liveprofile.attributes.definitions import Catalogue
from liveprofile.attributes.statements import (
    Statement,
    StatementError,
    check_scalars,
    json_object,
    new_statement,
)
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

CSV, JSON_LINES = (".csv",), (".jsonl", ".ndjson")
_FIELDS = ("source", "kind", "purpose")


class FileDefaults(NamedTuple):
    """The fields of rows that lack a column or value. None: the file must have it."""

    time_ms: int
    valid_days: float | None
    source: str | None
    kind: str | None
    purpose: str | None


class FileProblem(NamedTuple):
    """A fault of a row; rows count from 1, without the header of a CSV file."""

    row: int
    reason: str


def read_statements(
    path: Path,
    catalogue: Catalogue,
    defaults: FileDefaults,
    latest_ms: int,
    on_problem: Callable[[FileProblem], None],
) -> Iterator[Statement]:
    """The valid statements of a file, in constant memory; `on_problem` gets the others.

    latest_ms: statements of a later time are in the future. Raises InputError if the file cannot be
    read, has another format, or has a column that is neither a field nor an attribute.
    """
    for number, row in enumerate(_rows(path, catalogue), 1):
        try:
            statement = _statement(
                json_object(row) if isinstance(row, bytes) else row, catalogue, defaults
            )
            if statement.time_ms > latest_ms:
                raise StatementError("time: is in the future")
            if problems := catalogue.value_problems(statement.values):
                raise StatementError(problems[0])
        except StatementError as error:
            on_problem(FileProblem(number, str(error)))
        else:
            yield statement


def _rows(path: Path, catalogue: Catalogue) -> Iterator[Mapping[str, Any] | bytes]:
    """The file's rows; those of JSON lines are not parsed."""
    if path.suffix.lower() not in CSV + JSON_LINES:
        raise InputError(f"{path}: the name must end with {', '.join(CSV + JSON_LINES)}")
    try:
        if path.suffix.lower() in JSON_LINES:
            with path.open("rb") as lines:
                yield from filter(None, map(bytes.strip, lines))
            return
        with path.open(newline="", encoding="utf-8-sig") as texts:
            reader = csv.DictReader(texts, restkey="", strict=True)
            known = {"user_id", "time", "expires", *_FIELDS, *catalogue.by_id}
            names = reader.fieldnames or ()
            if unknown := [name for name in names if name not in known]:
                raise InputError(f"{path}: {catalogue.unknown(unknown[0])}: define or rename it")
            if "user_id" not in names:
                raise InputError(f"{path}: no column user_id; it has {', '.join(names)}")
            for row in reader:
                yield {
                    name: catalogue.by_id[name].parse(value)
                    if value and name in catalogue.by_id
                    else value
                    for name, value in row.items()
                }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from None


def _statement(row: Mapping[str, Any], catalogue: Catalogue, defaults: FileDefaults) -> Statement:
    values = {name: value for name, value in row.items() if value not in (None, "")}
    time_ms = _time_ms("time", values.pop("time", defaults.time_ms))
    fields = {name: values.pop(name, getattr(defaults, name)) for name in _FIELDS}
    expires = values.pop("expires", None)
    if expires is None and defaults.valid_days is not None:
        expires = time_ms + round(defaults.valid_days * DAY_MS)
    if expires is None:
        raise StatementError("expires: is missing; give --valid-days")
    for name, value in fields.items():
        if value is None:
            raise StatementError(f"{name}: is missing; give --{name}")
    user_id = values.pop("user_id", None)
    return new_statement(
        user_id=str(user_id) if type(user_id) is int else user_id,
        time_ms=time_ms,
        expires_ms=_time_ms("expires", expires),
        values=check_scalars(values),
        **fields,
    )


def _time_ms(name: str, value: Any) -> int:
    """Epoch milliseconds, or ISO text; UTC if it has no zone."""
    if type(value) is int:
        return value
    try:
        moment = datetime.fromisoformat(value)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
    except (TypeError, ValueError, OverflowError):
        raise StatementError(
            f"{name}: must be a time such as 2026-01-05T09:35 or epoch milliseconds"
        ) from None
