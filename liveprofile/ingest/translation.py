"""Translates the rows of a file into Kafka records of behaviour events: key, JSON, event time."""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from liveprofile.errors import InputError
from liveprofile.ingest import times
from liveprofile.ingest.mapping import (
    NUMBER_FIELDS,
    ROW_NUMBER,
    SIGNED_FIELDS,
    TEXT_FIELDS,
    FileMapping,
    Lookup,
    template_columns,
)
from liveprofile.ingest.numbers import finite, number_of
from liveprofile.ingest.sources import LINE, ROW, lookup_table
from liveprofile.ingest.times import DAY, parse_time

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class EventRecords(NamedTuple):
    """N events in order; a time is None if the row has no readable time."""

    keys: list[bytes | None]
    values: list[bytes]
    times_ms: list[int | None]

    def without(self, values: Container[bytes]) -> EventRecords:
        """The events whose payload is not in `values`."""
        kept = [event for event in zip(*self, strict=True) if event[1] not in values]
        return (
            EventRecords(*map(list, zip(*kept, strict=True))) if kept else EventRecords([], [], [])
        )


class Translator(Protocol):
    def times_ms(self, batch: pa.RecordBatch) -> pa.Int64Array:
        """(N,) event times in epoch milliseconds, null if a row has no readable time."""

    def translate(self, batch: pa.RecordBatch) -> EventRecords:
        """The batch's rows as events. Raises InputError."""


class PassthroughTranslator:
    """Sends JSON lines that contain events of the data contract, byte for byte."""

    def times_ms(self, batch: pa.RecordBatch) -> pa.Int64Array:
        return pa.array(self.translate(batch).times_ms, pa.int64())

    def translate(self, batch: pa.RecordBatch) -> EventRecords:
        lines = batch[LINE].to_pylist()
        parsed = [_json_object(line) for line in lines]
        keys = [
            None if (user := event.get("user_id")) is None else str(user).encode()
            for event in parsed
        ]
        return EventRecords(
            keys, lines, [parse_time_ms(event.get("event_time")) for event in parsed]
        )


class MappingTranslator:
    """Translates rows by a mapping.

    A value that cannot be converted is sent unchanged, so that the job rejects the event with a
    reason and the replay loses no row.
    """

    def __init__(self, mapping: FileMapping, name: str, source: Path):
        """`source`: lookup files are in its folder. Raises InputError."""
        self._mapping, self._name = mapping, name
        self._zone = ZoneInfo(mapping.time.zone)
        self._lookups = [
            (lookup, lookup_table(source.parent / lookup.file, lookup.key, lookup.columns, name))
            for lookup in mapping.lookups
        ]
        self._fixed = {k: v for k, v in mapping.fixed.items() if v is not None}

    def times_ms(self, batch: pa.RecordBatch) -> pa.Int64Array:
        return self._time_column_ms(self._columns(batch, list(self._mapping.time.columns())))

    def _time_column_ms(self, columns: dict[str, pa.Array]) -> pa.Int64Array:
        time = self._mapping.time
        array = columns[time.column]
        try:
            if time.clock:
                array = _with_clock(array, columns[time.clock])
            return epoch_ms(array, time.unit, self._zone, time.format)
        except InputError as error:
            raise InputError(f"mapping {self._name}: time.column {error}") from None

    def translate(self, batch: pa.RecordBatch) -> EventRecords:
        columns = self._columns(batch, list(self._mapping.file_columns()))
        # A column of the file named like the placeholder {row} takes precedence.
        columns[ROW_NUMBER if ROW_NUMBER not in columns else ROW] = batch[ROW]
        for lookup, table in self._lookups:
            _join(columns, lookup, table)
        times_ms = self._time_column_ms(columns).to_pylist()
        fields: dict[str, list[Any]] = {
            name: self._field(name, source, columns, batch[ROW])
            for name, source in self._mapping.fields.items()
        }
        fixed = self._fixed
        if self._mapping.negative:
            fixed = {name: value for name, value in fixed.items() if name != "event_type"}
            fields.setdefault("event_type", [self._fixed.get("event_type")] * batch.num_rows)
            _turn_negative(fields, self._mapping.negative)
        fields["event_time"] = times_ms
        if None in times_ms:
            raw = columns[self._mapping.time.column].to_pylist()
            fields["event_time"] = [
                time_ms if time_ms is not None else _json_value(value)
                for time_ms, value in zip(times_ms, raw, strict=True)
            ]
        users = fields.get("user_id") or [self._fixed.get("user_id")] * len(times_ms)
        keys = [None if user is None else str(user).encode() for user in users]
        return EventRecords(keys, _dump(fields, fixed), times_ms)

    def _field(
        self, name: str, source: str, columns: dict[str, pa.Array], rows: pa.Array
    ) -> list[Any]:
        if "{" in source:
            names = template_columns(source)
            parts = [_texts(columns[column]) for column in names]
            filled = source
            # Positional placeholders, because str.format reads `{a.b}` as an attribute.
            for column in names:
                filled = filled.replace("{" + column + "}", "{}", 1)
            return [
                None if None in part else filled.format(*part) for part in zip(*parts, strict=True)
            ]
        if name in NUMBER_FIELDS:
            return _numbers(columns[source], self._mapping.decimal, self._mapping.currency)
        if name not in TEXT_FIELDS:
            return columns[source].to_pylist()
        texts = _texts(columns[source])
        return self._map_event_types(texts, source, rows) if name == "event_type" else texts

    def _map_event_types(self, texts: list[Any], source: str, rows: pa.Array) -> list[Any]:
        if not (types := self._mapping.types):
            return texts
        try:
            return [None if text is None else types[text] for text in texts]
        except KeyError as error:
            row = rows[texts.index(error.args[0])].as_py()
            raise InputError(
                f"mapping {self._name}: types has no {error.args[0]!r}, the value of column"
                f" {source} in row {row}; it has {', '.join(types)} (map the value to itself to"
                " have the job reject the event)"
            ) from None

    def _columns(self, batch: pa.RecordBatch, names: list[str]) -> dict[str, pa.Array]:
        if self._mapping.format != "jsonl":
            return {name: batch[name] for name in names}
        parsed = [_json_object(line) for line in batch[LINE].to_pylist()]
        return {name: _array([row.get(name) for row in parsed]) for name in names}


def epoch_ms(array: pa.Array, unit: str, zone: ZoneInfo, time_format: str = "") -> pa.Int64Array:
    """(N,) times in epoch milliseconds, rounded down; null for a value that is not a time.

    `zone` applies to times without a time zone, time_format to texts. Raises InputError for a
    column type that does not fit the unit.
    """
    kind = array.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        if array.type.tz is None and zone.key != "UTC":
            array = pc.assume_timezone(
                array, zone.key, ambiguous="earliest", nonexistent="earliest"
            )
        return _floor_div(array.cast(pa.int64()), 1_000)
    time_format = time_format or (DAY if unit == "day" else "")
    if time_format:
        if not _is_text(kind):
            raise InputError(f"is {kind}, not text: remove time.format and time.unit")
        moments = (parse_time(text, time_format) for text in array.to_pylist())
        return pa.array([moment and _zoned_ms(moment, zone) for moment in moments], pa.int64())
    if unit == "iso":
        if not _is_text(kind):
            raise InputError(f"is {kind}, not ISO 8601 text: set time.unit to s, ms, us or ns")
        return pa.array([_iso_ms(text, zone) for text in array.to_pylist()], pa.int64())
    per_second = _PER_SECOND[unit]
    if _is_text(kind):
        try:
            array = array.cast(pa.int64())
        except pa.ArrowInvalid:
            array = pa.array([finite(text) for text in array.to_pylist()], pa.float64())
    if pa.types.is_integer(array.type):
        array = array.cast(pa.int64())
        if per_second > 1_000:
            return _floor_div(array, per_second // 1_000)
        return pc.multiply(array, 1_000 // per_second)
    if pa.types.is_floating(array.type):
        scaled = pc.floor(pc.multiply(array.cast(pa.float64()), 1_000 / per_second))
        inside = pc.less(pc.abs(scaled), 1e15)  # infinities and NaN become null
        return pc.if_else(inside, scaled, None).cast(pa.int64())
    raise InputError(f"is {kind}, not a time")


def _with_clock(days: pa.Array, clocks: pa.Array) -> pa.Array:
    """Day and time of day as one text; null if either is missing. Raises InputError."""
    if not (_is_text(days.type) and _is_text(clocks.type)):
        raise InputError(f"is {days.type}, and clock {clocks.type}: both must be texts")
    return pc.binary_join_element_wise(days, clocks, " ")


def _floor_div(array: pa.Int64Array, divisor: int) -> pa.Int64Array:
    values = np.floor_divide(array.fill_null(0).to_numpy(zero_copy_only=False), divisor)
    return pa.array(values, pa.int64(), mask=array.is_null().to_numpy(zero_copy_only=False))


def parse_time_ms(value: Any) -> int | None:
    """An event_time of the data contract in epoch milliseconds; None if it is invalid."""
    if type(value) is int:
        return value if 0 <= value < 10**15 else None
    if not isinstance(value, str):
        return None
    if value.isascii() and value.isdigit():
        return int(value) if len(value) <= 15 else None
    return _iso_ms(value, UTC)


def _iso_ms(text: str | None, zone: Any) -> int | None:
    if text is None or len(text) < len("2017-01-01T00:00"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _zoned_ms(moment, zone)


def _zoned_ms(moment: datetime, zone: Any) -> int:
    return times.epoch_ms(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _join(columns: dict[str, pa.Array], lookup: Lookup, table: pa.Table) -> None:
    keys = pc.cast(columns[lookup.source_key], pa.string())
    index = pc.index_in(keys, value_set=table[lookup.key])
    for column in lookup.columns:
        taken = table[column].take(index)
        columns[column] = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def _texts(array: pa.Array) -> list[str | None]:
    kind = array.type
    if pa.types.is_floating(kind):
        # Whole numbers become doubles if other values of the column are missing.
        whole = pc.equal(array, pc.floor(array))
        if pc.all(whole, skip_nulls=True).as_py() is not False:
            array = array.cast(pa.int64(), safe=False)
    if not _is_text(kind):
        try:
            array = pc.cast(array, pa.string())
        except pa.ArrowNotImplementedError:
            return [None if value is None else str(value) for value in array.to_pylist()]
    return array.to_numpy(zero_copy_only=False).tolist()


def _numbers(array: pa.Array, decimal: str, currency: str) -> list[Any]:
    if _is_text(array.type):
        return [
            text
            if text is None or (number := number_of(text, decimal, currency)) is None
            else number
            for text in array.to_pylist()
        ]
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    values = array.to_pylist()
    if pa.types.is_floating(array.type):
        return [None if value is None or value != value else value for value in values]
    return values


def _turn_negative(fields: dict[str, list[Any]], event_type: str) -> None:
    """Gives rows with a negative number this type, and makes their numbers positive."""
    columns = [fields[name] for name in SIGNED_FIELDS if name in fields]
    for row, numbers in enumerate(zip(*columns, strict=True)):
        if any(isinstance(number, (int, float)) and number < 0 for number in numbers):
            fields["event_type"][row] = event_type
            for column in columns:
                if isinstance(column[row], (int, float)):
                    column[row] = abs(column[row])


def _dump(fields: dict[str, list[Any]], fixed: dict[str, Any]) -> list[bytes]:
    names = tuple(fields)
    rows = zip(*fields.values(), strict=True)
    events: list[dict[str, Any]]
    if any(None in column for column in fields.values()):
        events = [
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for row in rows
        ]
    else:
        events = [dict(zip(names, row, strict=True)) for row in rows]
    for event in events if fixed else ():
        event.update(fixed)
    for event in events if "place.lat" in fields or "place.lon" in fields else ():
        place = {k: event.pop(f"place.{k}") for k in ("lat", "lon") if f"place.{k}" in event}
        if place:
            event["place"] = place
    return [orjson.dumps(event) for event in events]


def _array(values: list[Any]) -> pa.Array:
    """The JSON values of one field; values of mixed types become text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values])


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _json_value(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
