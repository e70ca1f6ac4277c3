"""Drafts a mapping of a CSV or Parquet file from the names and the values of its columns."""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.ingest.column_names import NAMES, TYPE_OF_NAME, fields_by_name, words
from liveprofile.ingest.mapping import NUMBER_FIELDS, SIGNED_FIELDS
from liveprofile.ingest.numbers import currency_of, number_of
from liveprofile.ingest.sources import REMEDIES, format_of
from liveprofile.ingest.times import (
    CLOCKS,
    DAYS,
    MOST_SHARE,
    find_time,
    formats_of,
    is_plain_number,
    iso,
    most,
    present,
)
from liveprofile.wire.tokens import TYPE_INDEX

MOST_TYPES = 50  # a column with more values is no event type
COMMON_FIELDS = ("item_id", "category_id", "price", "quantity", "amount", "session_id", "device_id")
SAMPLE_ROWS = 10_000
SAMPLE_BYTES = 8 << 20
DELIMITERS = ",;\t|"
# The keys of a mapping that are texts, with their defaults.
DEFAULTS = {"encoding": "utf-8", "delimiter": ",", "decimal": ".", "currency": "", "negative": ""}


class Draft(NamedTuple):
    """A drafted mapping: what `read_mapping` reads, and what a person has to look at."""

    format: str
    encoding: str
    delimiter: str
    decimal: str
    currency: str
    negative: str
    columns: list[str]  # names for a CSV without a header line
    sort_by_time: bool
    time: dict[str, str]
    fields: dict[str, str]
    fixed: dict[str, str]
    types: dict[str, str]
    unused: list[str]  # columns that no field uses
    unsure: dict[str, str]  # key of the mapping: why, and what to do

    def to_toml(self, source: str) -> str:
        """The mapping as TOML, with a comment at each key to look at."""
        lines = [
            f"# Drafted from {source} by `liveprofile events mapping infer`: look at each comment."
        ]
        for key, default in ({"format": ""} | DEFAULTS).items():
            if (value := getattr(self, key)) != default:
                lines.append(f"{key} = {_text(value)}")
        if self.columns:
            lines.append(f"columns = [{', '.join(map(_text, self.columns))}]")
        if self.sort_by_time:
            lines.append("sort_by_time = true")
        for section in ("time", "fields", "fixed", "types"):
            values: dict[str, str] = getattr(self, section)
            notes = {
                key.partition(".")[2]: note
                for key, note in self.unsure.items()
                if key.startswith(f"{section}.")
            }
            if not (values or notes):
                continue
            lines += ["", f"[{section}]"]
            for key, value in values.items():
                note = f"  # ? {notes.pop(key)}" if key in notes else ""
                lines.append(f"{_key(key)} = {_text(value)}{note}")
            lines += [f"# {_key(key)} = ?  {note}" for key, note in notes.items()]
        if self.unused:
            lines += ["", f"# Columns that are not used: {', '.join(self.unused)}"]
            if free := [name for name in COMMON_FIELDS if name not in self.fields]:
                lines.append("# [fields] may have: " + ", ".join(free))
        return "\n".join(lines) + "\n"


def infer(source: Path) -> Draft:
    """Drafts the mapping of a file from its first rows. Raises InputError."""
    if not source.is_file():
        raise InputError(f"no file at {source}")
    kind = format_of(source)
    if kind == "Parquet":
        columns = _first_of_parquet(source)
        found = _Drafting("parquet", "utf-8", ",", columns, has_header=True)
    elif kind in REMEDIES:
        raise InputError(f"{source} is {kind}: {REMEDIES[kind]}")
    else:
        encoding, delimiter, rows = _first_of_csv(source)
        if rows and rows[0][0].startswith("{"):
            raise InputError(
                f"{source}: JSON lines are neither Parquet nor a CSV with several columns; events"
                " as in docs/data-contract.md need no mapping, for others write one with"
                ' format = "jsonl"'
            )
        if not rows or len(rows[0]) < 2:
            raise InputError(f"{source}: neither Parquet nor a CSV with several columns")
        has_header = _is_header(rows[0])
        width = len(rows[0])
        names = rows[0] if has_header else [f"column_{number + 1}" for number in range(width)]
        body = [row for row in rows[has_header:] if len(row) == width]
        columns = {name: [row[index] for row in body] for index, name in enumerate(names)}
        found = _Drafting("csv", encoding, delimiter, columns, has_header)
    if not any(columns.values()):
        raise InputError(f"{source} has column names and no rows to draft a mapping from")
    return found.draft()


class _Drafting:
    """columns: the first values of each column; texts from a CSV, typed from Parquet."""

    def __init__(
        self,
        file_format: str,
        encoding: str,
        delimiter: str,
        columns: dict[str, list[Any]],
        has_header: bool,
    ):
        self._form = file_format, encoding, delimiter
        self._columns, self._has_header = columns, has_header
        self._unsure: dict[str, str] = {}
        self._fields = fields_by_name(list(columns))

    def draft(self) -> Draft:
        columns, fields, unsure = self._columns, self._fields, self._unsure
        time = find_time(columns, fields.pop("event_time", None))
        if time.note:
            unsure["time.column"] = time.note
        numbers = [name for name in fields if name in NUMBER_FIELDS]
        # Of all columns if the names of none tell that they are numbers.
        found = (currency_of(map(str, present(columns[fields[name]]))) for name in numbers)
        self._currency = next(filter(None, found), "")
        has_commas = any(
            _has_comma(columns[name], self._currency)
            for name in [fields[name] for name in numbers] or columns
        )
        self._decimal = "," if has_commas else "."
        for field in numbers:
            if not most(lambda value: self._number(value) is not None, columns[fields[field]]):
                del fields[field]
        self._note_user(time.section)
        self._choose_event_id()
        fixed, types = self._event_type()
        # A column of types says itself which rows are returns.
        negative = self._negative() if fixed else ""
        order = ["event_id", *NAMES]
        used = {time.section.get("column"), time.section.get("clock"), *fields.values()}
        return Draft(
            *self._form,
            self._decimal,
            self._currency,
            negative,
            [] if self._has_header else list(columns),
            not time.in_order,
            time.section,
            {name: fields[name] for name in sorted(fields, key=order.index)},
            fixed,
            types,
            [name for name in columns if name not in used],
            unsure,
        )

    def _number(self, value: Any) -> float | None:
        return _number(value, self._decimal, self._currency)

    def _choose_event_id(self) -> None:
        columns, user = self._columns, self._fields.get("user_id")
        event_id = self._fields.pop("event_id", None)
        if event_id is None or len(set(columns[event_id])) < len(columns[event_id]):
            # A row without a user shall be rejected for that, not for its id.
            every_row = user is not None and len(present(columns[user])) == len(columns[user])
            event_id = f"{{{user}}}-{{row}}" if every_row else "{row}"
            self._unsure["fields.event_id"] = (
                "no column is unique: this numbers the rows, so send the file once and as one"
            )
        self._fields["event_id"] = event_id

    def _note_user(self, time: dict[str, str]) -> None:
        """Says what a person has to know about the column of users."""
        columns, user = self._columns, self._fields.get("user_id")
        note = ""
        if user is None:
            used = (*self._fields.values(), *time.values())
            free = [name for name in columns if name not in used]
            note = "the column with the customer" + _perhaps(columns, free)
        elif any("@" in str(value) for value in columns[user][:MOST_TYPES]):
            note = "addresses are personal data: use a customer number if there is"
        elif missing := len(columns[user]) - len(present(columns[user])):
            note = f"{missing} of {len(columns[user])} rows have none: rejected"
        if note:
            self._unsure["fields.user_id"] = note

    def _negative(self) -> str:
        """The type of rows with a negative number; "" if there are none."""
        found = ""
        for field in SIGNED_FIELDS:
            values = present(self._columns[self._fields[field]]) if field in self._fields else []
            if count := sum((self._number(value) or 0) < 0 for value in values):
                found = "return"
                note = f"{count} of {len(values)} rows are negative: returns?"
                self._unsure[f"fields.{field}"] = note
        return found

    def _event_type(self) -> tuple[dict[str, str], dict[str, str]]:
        """The fixed values and the types of the mapping; removes a column that holds no types."""
        columns, fields = self._columns, self._fields
        column = fields.pop("event_type", None)
        others = [name for name in columns if name not in fields.values()]
        candidates = [column] if column is not None else others
        by_column = {name: Counter(map(str, present(columns[name]))) for name in candidates}
        column = next((name for name, counts in by_column.items() if _are_types(counts)), None)
        if column is None:
            bought = {"amount", "quantity", "price"} & fields.keys()
            few = [
                f"{name} ({', '.join(itertools.islice(counts, 4))})"
                for name, counts in by_column.items()
                if 1 < len(counts) <= MOST_TYPES and not _has_values(list(counts))
            ]
            more = "; or set event_type in [fields] and the values in [types]: " + ", ".join(few)
            self._unsure["fixed.event_type"] = (
                "no column has event types: every row is one of these" + more * bool(few)
            )
            return {"event_type": "purchase" if bought else "view"}, {}
        fields["event_type"] = column
        known = {value: TYPE_OF_NAME.get(words(value)) for value in by_column[column]}
        for value, kind in known.items():
            if kind is None:
                allowed = ", ".join(list(TYPE_INDEX)[:-1])
                note = f"{by_column[column][value]} rows; one of {allowed}"
                self._unsure[f"types.{value}"] = note
        if all(value == kind for value, kind in known.items()):
            return {}, {}
        return {}, {value: kind for value, kind in known.items() if kind}


def _are_types(counts: Counter[str]) -> bool:
    """Whether at least half of the rows have a value that is the name of an event type."""
    known = sum(count for value, count in counts.items() if words(value) in TYPE_OF_NAME)
    return len(counts) <= MOST_TYPES and 2 * known >= counts.total() > 0


def _perhaps(columns: dict[str, list[Any]], names: list[str]) -> str:
    """The columns whose values come back, most values first."""
    counts = {name: len({str(value) for value in present(columns[name])}) for name in names}
    rows = max(map(len, columns.values()), default=0)
    likely = [
        name
        for name in names
        if 1 < counts[name] <= MOST_SHARE * rows and not _has_comma(columns[name])
    ]
    likely = sorted(likely, key=lambda name: -counts[name])[:3]
    named = (f"{name} ({counts[name]} values in {rows} rows)" for name in likely)
    return f": perhaps {', '.join(named)}" if likely else ""


def _has_comma(values: list[Any], currency: str = "") -> bool:
    there = [value for value in present(values) if isinstance(value, str)]
    return any("," in value for value in there) and most(
        lambda value: number_of(value, ",", currency) is not None, there
    )


def _number(value: Any, decimal: str, currency: str) -> float | None:
    if isinstance(value, str):
        return number_of(value, decimal, currency)
    return float(value) if is_plain_number(value) else None


def _has_values(texts: list[str]) -> bool:
    """Whether texts are numbers, amounts, days or times of day, which are no event types."""
    currency = currency_of(texts)
    return any(
        most(lambda value, mark=mark: _number(value, mark, currency) is not None, texts)
        for mark in ".,"
    ) or bool(formats_of(texts, MOST_SHARE, (*DAYS, *CLOCKS)))


def _is_header(row: list[str]) -> bool:
    """Names are texts, each once; a row of data nearly always has a number or a time."""
    no_values = not any(is_plain_number(value) or iso(value) or not value for value in row)
    return no_values and len(set(row)) == len(row)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _first_of_parquet(source: Path) -> dict[str, list[Any]]:
    try:
        with pq.ParquetFile(source) as file:
            batch = next(file.iter_batches(SAMPLE_ROWS), None)
            names = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: {' '.join(str(error).split())[:300]}") from None
    if batch is None:
        return {name: [] for name in names}
    return {name: batch[name].to_pylist() for name in names}


def _first_of_csv(source: Path) -> tuple[str, str, list[list[str]]]:
    """The encoding, the delimiter and the first rows, all texts. Raises InputError."""
    try:
        with source.open("rb") as file:
            head = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise InputError(f"{source}: {error}") from None
    encoding, text = _decoded(source, head)
    lines = text.splitlines(keepends=True)[: SAMPLE_ROWS + 1]
    # Every line has the delimiter of the file about as often; another occurs in some texts only.
    fewest = {
        each: min((line.count(each) for line in lines[:20]), default=0) for each in DELIMITERS
    }
    delimiter = max(DELIMITERS, key=fewest.__getitem__)
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    return encoding, delimiter, rows


def _decoded(source: Path, head: bytes) -> tuple[str, str]:
    """The encoding and the text; the last character may be cut."""
    # A Windows encoding has a character for nearly every byte, but texts have no zero.
    windows = [] if b"\0" in head else ["cp1252"]
    encodings = ["utf-16"] if head.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8", *windows]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(head)
            return encoding, text.removeprefix("\ufeff")
    raise InputError(f"{source} is in none of the encodings {', '.join(encodings)}")
