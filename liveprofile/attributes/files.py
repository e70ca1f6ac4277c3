"""Statements from a file: CSV or Parquet with a row per user, or JSON lines.

A line of JSON is a row as well, or a whole event (statements.py). The columns user_id, time,
expires, source, kind and purpose may be missing if the command gives their value; every other
column is an attribute. An empty value is no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from liveprofile.attributes.definitions import Catalogue
from liveprofile.attributes.statements import (
    EVENT_TYPE,
    Statement,
    StatementError,
    json_object,
    new_statement,
    parse_event,
)
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

BATCH_ROWS = 10_000
FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FIELDS = ("source", "kind", "purpose")


class FileDefaults(NamedTuple):
    """The fields of rows that lack a column or value. None: the file must have it."""

    time_ms: int
    valid_days: float | None
    source: str | None
    kind: str | None
    purpose: str | None
    renamed: Mapping[str, str] = {}


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
    for number, row in _rows(path):
        try:
            if isinstance(row, bytes):
                statement = _of_line(row, catalogue, defaults)
            else:
                if number == 1:
                    _check_columns(path, row, catalogue, defaults)
                statement = _of_row(row, catalogue, defaults, texts=path.suffix == ".csv")
            if statement.time_ms > latest_ms:
                raise StatementError("time: is in the future")
            if problems := catalogue.value_problems(statement.values):
                raise StatementError(problems[0])
        except StatementError as error:
            on_problem(FileProblem(number, str(error)))
        else:
            yield statement


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | bytes]]:
    """The file's rows with their numbers; those of JSON lines are not parsed."""
    format = FORMATS.get(path.suffix.lower())
    if not path.is_file():
        raise InputError(f"no file at {path}")
    if format is None:
        raise InputError(f"{path}: the name must end with {', '.join(FORMATS)}")
    try:
        if format == "jsonl":
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, line
            return
        if format == "csv":
            names = csv.open_csv(path).schema.names
            types = {name: pa.string() for name in names}
            convert = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
            batches: Any = csv.open_csv(path, convert_options=convert)
        else:
            batches = pq.ParquetFile(path).iter_batches(BATCH_ROWS)
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def _check_columns(
    path: Path, row: Mapping[str, Any], catalogue: Catalogue, defaults: FileDefaults
) -> None:
    names = [defaults.renamed.get(name, name) for name in row]
    known = {"user_id", "time", "expires", *_FIELDS, *catalogue.by_id}
    for name in names:
        if name and name not in known:
            raise InputError(
                f"{path}: column {name}: {catalogue.unknown(name)}. Define it, or give its name by"
                " --rename COLUMN=NAME, or leave it out by --rename COLUMN="
            )
    if "user_id" not in names:
        raise InputError(f"{path}: no column user_id; it has {', '.join(row)}")


def _of_line(line: bytes, catalogue: Catalogue, defaults: FileDefaults) -> Statement:
    row = json_object(line)
    if row.get("type") == EVENT_TYPE:
        return parse_event(line)
    return _of_row(row, catalogue, defaults, texts=False)


def _of_row(
    row: Mapping[str, Any], catalogue: Catalogue, defaults: FileDefaults, texts: bool
) -> Statement:
    """texts: every value is a text, which is parsed as the attribute's type."""
    named = {defaults.renamed.get(name, name): value for name, value in row.items()}
    values = {name: value for name, value in named.items() if name and value not in (None, "")}
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
    if type(user_id) is int:
        user_id = str(user_id)
    if texts:
        values = {
            name: catalogue.by_id[name].parse(value) if name in catalogue.by_id else value
            for name, value in values.items()
        }
    for name, value in values.items():
        if type(value) not in (bool, int, float, str):
            raise StatementError(f"{name}: must be a bool, a number or a text")
    return new_statement(
        user_id=user_id,
        time_ms=time_ms,
        expires_ms=_time_ms("expires", expires),
        values=values,
        **fields,
    )


def _time_ms(name: str, value: Any) -> int:
    """Epoch milliseconds, a date or time of Arrow, or ISO text; UTC if it has no zone."""
    try:
        if type(value) is int:
            return value
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if type(value) is date:
            value = datetime(value.year, value.month, value.day)
        if isinstance(value, datetime):
            moment = value.replace(tzinfo=value.tzinfo or UTC)
            return round(moment.timestamp() * 1_000)
    except (ValueError, OverflowError):
        pass
    raise StatementError(f"{name}: must be a time such as 2026-01-05T09:35 or epoch milliseconds")
