"""Drafts a mapping of a CSV or Parquet file from the names and the values of its columns."""

import codecs
import contextlib
import csv
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from intake.files.column_names import (
    NAMES,
    REMOVE_FROM_CART,
    TYPE_OF_NAME,
    fields_by_name,
    words,
)
from intake.files.mapping import NUMBER_FIELDS, SIGNED_FIELDS
from intake.files.values import DAY, currency_of, finite, iso, number_of, time_ms
from liveprofile.errors import InputError
from liveprofile.toml_text import quoted, toml_value
from liveprofile.wire.tokens import TYPE_INDEX

MOST_TYPES = 50  # a column with more values is no event type
MOST_SHARE = 0.9  # of the values fit, the job rejects the events of the others
COMMON_FIELDS = ("item_id", "category_id", "price", "quantity", "amount", "session_id", "device_id")
SAMPLE_ROWS, SAMPLE_TIMES = 10_000, 200
SAMPLE_BYTES = 8 << 20
# Each day first, then month first: for a column that fits both, a person has to decide.
_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d.%m.%y", "%m/%d/%y")
CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p")
FORMATS = tuple(f"{date} {clock}" for date in _DATES for clock in CLOCKS)
DAYS = (DAY, *_DATES)


class Draft(NamedTuple):
    """A drafted mapping, and what a person has to look at."""

    mapping: dict[str, Any]  # what `read_mapping` reads
    unused: list[str]  # columns that no field uses
    unsure: dict[str, str]  # key of the mapping: why, and what to do

    def to_toml(self, source: str) -> str:
        """The mapping as TOML, with a comment at each key to look at."""
        drafted = f"Drafted from {_in_comment(source)} by `liveprofile events mapping infer`"
        lines = [f"# {drafted}: look at each comment."]
        sections = {key: value for key, value in self.mapping.items() if isinstance(value, dict)}
        lines += [
            f"{key} = {toml_value(value)}"
            for key, value in self.mapping.items()
            if key not in sections
        ]
        for section, values in sections.items():
            start = f"{section}."
            notes = {
                k.removeprefix(start): v for k, v in self.unsure.items() if k.startswith(start)
            }
            lines += ["", f"[{section}]"] * bool(values or notes)
            for key, value in values.items():
                note = f"  # ? {notes.pop(key)}" if key in notes else ""
                lines.append(f"{_key(key)} = {toml_value(value)}{note}")
            lines += [f"# {_key(key)} = ?  {note}" for key, note in notes.items()]
        if self.unused:
            unused = ", ".join(map(_in_comment, self.unused))
            lines += ["", f"# Columns that are not used: {unused}"]
            if free := [name for name in COMMON_FIELDS if name not in self.mapping["fields"]]:
                lines.append("# [fields] may have: " + ", ".join(free))
        return "\n".join(lines) + "\n"


def infer(source: Path) -> Draft:
    """Drafts the mapping of a file from its first rows. Raises InputError."""
    try:
        with source.open("rb") as file:
            start = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
    if start.startswith(b"PAR1"):
        head, columns = {"format": "parquet"}, _first_of_parquet(source)
    else:
        head, columns = _first_of_csv(source, start)
    if not any(columns.values()):
        raise InputError(f"{source} has column names and no rows to draft a mapping from")
    return _draft(head, columns)


def _draft(head: dict[str, Any], columns: dict[str, list[Any]]) -> Draft:
    """columns: the first values of each column; texts from a CSV, typed from Parquet."""
    fields, unsure = fields_by_name(list(columns)), {}
    time, in_order, note = _find_time(columns, fields.pop("event_time", None))
    if note:
        unsure["time.column"] = note
    numbers = [name for name in fields if name in NUMBER_FIELDS]
    # Of all columns if the names of none tell that they are numbers.
    of_numbers = [_present(columns[fields[name]]) for name in numbers]
    of_numbers = of_numbers or [*map(_present, columns.values())]
    currencies = (currency_of(map(str, values)) for values in of_numbers if numbers)
    currency = next(filter(None, currencies), "")
    has_commas = any(
        any("," in str(value) for value in values) and _fit(_number, values, ",", currency)
        for values in of_numbers
    )
    form = "," if has_commas else ".", currency
    for field in numbers:
        if not _fit(_number, _present(columns[fields[field]]), *form):
            del fields[field]

    user = fields.get("user_id")
    users = _present(columns[user]) if user is not None else []
    rows = max(map(len, columns.values()))
    if user is None:
        unsure["fields.user_id"] = "the column with the customer"
    elif any("@" in str(value) for value in users[:MOST_TYPES]):
        unsure["fields.user_id"] = "addresses are personal data: use a customer number if there is"
    elif len(users) < rows:
        unsure["fields.user_id"] = f"{rows - len(users)} of {rows} rows have none: rejected"
    event_id = fields.pop("event_id", None)
    if event_id is None or len(set(columns[event_id])) < rows:
        # A row without a user shall be rejected for that, not for its id.
        event_id = f"{{{user}}}-{{row}}" if len(users) == rows else "{row}"
        unsure["fields.event_id"] = (
            "no column is unique: this numbers the rows, so send the file once and as one"
        )
    fixed, types = _event_types(columns, fields, unsure)
    negative = ""
    for field in SIGNED_FIELDS if fixed else ():  # a column of types says which rows are returns
        values = _present(columns[fields[field]]) if field in fields else []
        if count := sum((_number(value, *form) or 0) < 0 for value in values):
            negative = "return"
            unsure[f"fields.{field}"] = f"{count} of {len(values)} rows are negative: returns?"
    # A code may turn out to be a removal.
    may_remove = "" in types.values() or REMOVE_FROM_CART in types.values()
    own_types = [REMOVE_FROM_CART] if may_remove else []
    mapping = head | {
        name: value
        for name, value in (
            ("decimal", form[0].strip(".")),
            ("currency", currency),
            ("negative", negative),
            ("sort_by_time", not in_order),
            ("own_types", own_types),
        )
        if value
    }
    used = {time.get("column"), time.get("clock"), *fields.values()}
    fields = {"event_id": event_id} | {name: fields[name] for name in NAMES if name in fields}
    return Draft(
        mapping | {"time": time, "fields": fields, "fixed": fixed, "types": types},
        [name for name in columns if name not in used | {event_id}],
        unsure,
    )


def _event_types(
    columns: dict[str, list[Any]], fields: dict[str, str], unsure: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The fixed values and the types of the mapping; sets or removes the field of the types.

    The type of a code is "", which no mapping may have: a person has to fill it in.
    """
    allowed = ", ".join([*TYPE_INDEX, REMOVE_FROM_CART])
    column = fields.pop("event_type", None)
    names = [column] if column is not None else columns.keys() - fields.values()
    for name in (name for name in columns if name in names):
        counts = Counter(map(_code, _present(columns[name])))
        if name == column and len(counts) <= MOST_TYPES and all(map(str.isdecimal, counts)):
            fields["event_type"] = name
            codes = sorted(counts, key=int)
            unsure |= {f"types.{each}": f"{counts[each]} rows; one of {allowed}" for each in codes}
            return {}, dict.fromkeys(codes, "")
        known = {value: TYPE_OF_NAME.get(words(value)) for value in counts}
        # At least half of the rows have a value that is the name of an event type.
        rows = sum(counts[value] for value, kind in known.items() if kind)
        if len(counts) > MOST_TYPES or not 2 * rows >= counts.total() > 0:
            continue
        fields["event_type"] = name
        for value in (value for value, kind in known.items() if kind is None):
            unsure[f"types.{value}"] = f"{counts[value]} rows; one of {allowed}"
        is_same = all(value == kind for value, kind in known.items())
        return {}, {} if is_same else {value: kind for value, kind in known.items() if kind}
    unsure["fixed.event_type"] = (
        "no column has event types: every row is one of these; or set event_type in [fields] and"
        " its values in [types]"
    )
    bought = {"amount", "quantity", "price"} & fields.keys()
    return {"event_type": "purchase" if bought else "view"}, {}


class _Reading(NamedTuple):
    """A column read as times. The lower the rank, the more it tells."""

    rank: int
    section: dict[str, str]  # [time] of the mapping
    falls: int  # rows that are earlier than the row before
    note: str


def _find_time(
    columns: dict[str, list[Any]], named: str | None
) -> tuple[dict[str, str], bool, str]:
    """[time] of the mapping, whether the rows are in its order, and what to look at.

    named: the column whose name says that it is the time.
    """
    found = {name: reading for name in columns if (reading := _reading(columns, name))}
    best = min(found.values(), key=lambda each: each.rank, default=None)
    reading = found.get(named, best)
    if reading is not None:
        is_named = reading.section["column"] == named
        notes = ("" if is_named else "chosen by its values", reading.note)
        return reading.section, not reading.falls, "; ".join(filter(None, notes))
    if named is None:
        return {}, True, "the column with the time of the event"
    example = next(iter(_present(columns[named])), "")
    note = f"{example!r} is neither ISO 8601 (2026-11-26T01:00) nor a count since 1970: set format"
    return {"column": named}, True, note


def _reading(columns: dict[str, list[Any]], name: str) -> _Reading | None:
    """A column as times; None if it has none."""
    values = _present(columns[name])
    plain = [number for value in values if (number := _number(value, ".", "")) is not None]
    median = statistics.median(plain) if len(plain) >= MOST_SHARE * len(values) > 0 else 0
    powers = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
    # From 2001 to 2100.
    unit = next((unit for unit, per in powers.items() if 1e9 * per <= median < 4.1e9 * per), "iso")
    if _fit(time_ms, values, unit, "", UTC):
        has_zone = unit != "iso" or any(map(_has_zone, values))
        note = "" if has_zone else "times without a zone are UTC; else set zone"
        section = {"column": name} | ({} if unit == "iso" else {"unit": unit})
        return _Reading(0, section, _order(values, unit, "")[0], note)
    local = "local times, or UTC? set zone, such as Europe/Berlin"
    if formats := _formats(values, FORMATS):
        return _by_format(1, {"column": name}, values, formats, local)
    if not (days := _formats(values, DAYS)):
        return None
    for other in columns:
        if other != name and (clocks := _formats(_present(columns[other]), CLOCKS)):
            texts = [f"{day} {at}" for day, at in zip(columns[name], columns[other], strict=True)]
            joined = [f"{day} {clocks[0]}" for day in days]
            return _by_format(2, {"column": name, "clock": other}, texts, joined, local)
    note = "no time of day: all events of a day are at midnight, so the order within a day is lost"
    return _by_format(3, {"column": name, "unit": "day"}, values, days, note)


def _by_format(
    rank: int, section: dict[str, str], texts: list[str], formats: list[str], note: str
) -> _Reading:
    """The reading with the format that orders the rows best; asks if several fit."""
    orders = {each: _order(texts, "iso", each) for each in formats}
    best = min(formats, key=orders.__getitem__)
    if others := [each for each in formats if each != best]:
        note = f"it may also be {others[0]}: is the day first? {note}"
    return _Reading(
        rank, section | ({} if best == DAY else {"format": best}), orders[best][0], note
    )


def _order(values: list[Any], unit: str, time_format: str) -> tuple[int, int]:
    """The number of rows that are earlier than the row before, and the milliseconds between all."""
    found = (time_ms(value, unit, time_format, UTC) for value in values)
    times_ms = [time for time in found if time is not None]
    falls = sum(earlier > later for earlier, later in itertools.pairwise(times_ms))
    return falls, max(times_ms, default=0) - min(times_ms, default=0)


def _formats(values: list[Any], among: Iterable[str]) -> list[str]:
    """The formats that most of the first values have."""
    sample = [value for value in values[:SAMPLE_TIMES] if isinstance(value, str)]
    # A clock alone is a time of 1900.
    return [each for each in among if _fit(time_ms, sample, "iso", each, UTC)]


def _has_zone(value: Any) -> bool:
    moment = (
        value if isinstance(value, datetime) else iso(value) if isinstance(value, str) else None
    )
    return moment is not None and moment.tzinfo is not None


def _number(value: Any, decimal: str, currency: str) -> float | None:
    if isinstance(value, str):
        return number_of(value, decimal, currency)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return finite(str(value)) if is_number else None


def _fit(convert: Any, values: list[Any], *how: Any) -> bool:
    """Whether nearly all values can be converted."""
    known = sum(convert(value, *how) is not None for value in values)
    return known >= MOST_SHARE * len(values) > 0


def _code(value: Any) -> str:
    """A value as the mapping has it: a column of whole numbers with gaps is one of doubles."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None and value != ""]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


def _in_comment(text: str) -> str:
    """A text of a file: a line break in it would end the comment."""
    return text if text.isprintable() else quoted(text)


def _first_of_parquet(source: Path) -> dict[str, list[Any]]:
    try:
        with pq.ParquetFile(source) as file:
            batch = next(file.iter_batches(SAMPLE_ROWS), None)
            names = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: {' '.join(str(error).split())[:300]}") from None
    return {name: [] if batch is None else batch[name].to_pylist() for name in names}


def _first_of_csv(source: Path, head: bytes) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The form of the file as in a mapping, and the first values by column. Raises InputError."""
    encoding, text = _decoded(source, head)
    lines = text.splitlines(keepends=True)[: SAMPLE_ROWS + 1]
    # Every line has the delimiter of the file about as often; another occurs in some texts only.
    fewest = {each: min((line.count(each) for line in lines[:20]), default=0) for each in ",;\t|"}
    delimiter = max(fewest, key=fewest.__getitem__)
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    if not rows or len(rows[0]) < 2 or rows[0][0].startswith("{"):
        raise InputError(
            f"{source}: neither Parquet nor a CSV with several columns: unpack it, or save it as"
            " one. Events as JSON lines (docs/data-contract.md) need no mapping"
        )
    names, width = rows[0], len(rows[0])
    # Names are texts, each once; a row of data nearly always has a number or a time.
    is_header = len(set(names)) == width and not any(
        not value or finite(value) is not None or iso(value) for value in names
    )
    form = {"format": "csv"}
    form |= {} if encoding == "utf-8" else {"encoding": encoding}
    form |= {} if delimiter == "," else {"delimiter": delimiter}
    if not is_header:
        names = [f"column_{number + 1}" for number in range(width)]
        form["columns"] = names
    body = [row for row in rows[is_header:] if len(row) == width]
    return form, {name: [row[index] for row in body] for index, name in enumerate(names)}


def _decoded(source: Path, head: bytes) -> tuple[str, str]:
    """The encoding and the text; the last character may be cut."""
    # A Windows encoding has a character for nearly every byte, but texts have no zero.
    windows = [] if b"\0" in head else ["cp1252"]
    encodings = ["utf-16"] if head.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8", *windows]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(head)
            return encoding, text.removeprefix("\ufeff")
    raise InputError(
        f"{source} is in none of the encodings {', '.join(encodings)}: unpack it, or save it as CSV"
        " or Parquet"
    )
