"""Translates the rows of a file into Kafka records of behaviour events: key, JSON, event time."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from intake.files.mapping import (
    NUMBER_FIELDS,
    ROW_NUMBER,
    SIGNED_FIELDS,
    TEXT_FIELDS,
    FileMapping,
    template_columns,
)
from intake.files.sources import ROW, lookup_table
from intake.files.values import DAY, number_of, time_ms
from liveprofile.errors import InputError
from liveprofile.events.validation import event_time_ms


class EventRecords(NamedTuple):
    """N events in order; a time is None if the row has no readable time."""

    keys: list[bytes | None]
    values: list[bytes]
    times_ms: list[int | None]


def events_of_lines(batches: Iterable[list[bytes]]) -> Iterator[EventRecords]:
    """Lines with events of the data contract, byte for byte."""
    for lines in batches:
        events = list(map(_json_object, lines))
        times_ms = [event_time_ms(event.get("event_time")) for event in events]
        yield EventRecords([_key(event.get("user_id")) for event in events], lines, times_ms)


class Translator:
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

    def times_ms(self, batch: pa.RecordBatch | dict[str, pa.Array]) -> list[int | None]:
        """(N,) event times in epoch milliseconds, None if a row has no readable time."""
        time = self._mapping.time
        array, kind = batch[time.column], batch[time.column].type
        time_format = time.format or (DAY if time.unit == "day" else "")
        is_time = pa.types.is_temporal(kind)
        fits = is_time or _is_text(kind) or not (time_format or time.unit == "iso")
        if not fits or (time.clock and not (_is_text(kind) and _is_text(batch[time.clock].type))):
            raise InputError(
                f"mapping {self._name}: time.column is {kind}, which does not fit: a count needs"
                " time.unit s, ms, us or ns, and a clock texts"
            )
        if time.clock:
            array = pc.binary_join_element_wise(array, batch[time.clock], " ")
        if pa.types.is_timestamp(kind):  # Python has no nanoseconds
            array = array.cast(pa.timestamp("us", kind.tz), safe=False)
        return [time_ms(value, time.unit, time_format, self._zone) for value in array.to_pylist()]

    def translate(self, batch: pa.RecordBatch) -> EventRecords:
        """The batch's rows as events. Raises InputError."""
        mapping = self._mapping
        columns = {name: batch[name] for name in mapping.file_columns()}
        # A column of the file named like the placeholder {row} takes precedence.
        columns[ROW_NUMBER if ROW_NUMBER not in columns else ROW] = batch[ROW]
        for lookup, table in self._lookups:
            index = pc.index_in(
                pc.cast(columns[lookup.source_key], pa.string()), value_set=table[lookup.key]
            )
            columns |= {name: table[name].take(index).combine_chunks() for name in lookup.columns}
        times_ms = self.times_ms(columns)
        fields = {
            name: self._field(name, source, columns, batch[ROW])
            for name, source in mapping.fields.items()
        }
        fields |= {name: [value] * batch.num_rows for name, value in self._fixed.items()}
        if mapping.negative:
            _turn_negative(fields, mapping.negative)
        fields["event_time"] = times_ms
        if None in times_ms:
            values = columns[mapping.time.column].to_pylist()
            fields["event_time"] = [
                time if time is not None else _json_value(value)
                for time, value in zip(times_ms, values, strict=True)
            ]
        keys = [*map(_key, fields.get("user_id") or [None] * batch.num_rows)]
        return EventRecords(keys, _dumped(fields), times_ms)

    def _field(
        self, name: str, source: str, columns: dict[str, pa.Array], rows: pa.Array
    ) -> list[Any]:
        mapping = self._mapping
        if "{" in source:
            names = template_columns(source)
            parts = [_texts(columns[column]) for column in names]
            # Positional placeholders, because str.format reads `{a.b}` as an attribute.
            for column in names:
                source = source.replace("{" + column + "}", "{}", 1)
            return [
                None if None in part else source.format(*part) for part in zip(*parts, strict=True)
            ]
        if name in NUMBER_FIELDS:
            return [
                _number(value, mapping.decimal, mapping.currency)
                for value in columns[source].to_pylist()
            ]
        if name not in TEXT_FIELDS:
            return columns[source].to_pylist()
        texts = _texts(columns[source])
        if name != "event_type" or not (types := mapping.types):
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


def _texts(array: pa.Array) -> list[str | None]:
    kind = array.type
    if pa.types.is_floating(kind):
        # Whole numbers become doubles if other values of the column are missing.
        whole = pc.equal(array, pc.floor(array))
        if pc.all(whole, skip_nulls=True).as_py() is not False:
            array = array.cast(pa.int64(), safe=False)
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    values = array.to_pylist()
    return values if _is_text(array.type) else [v if v is None else str(v) for v in values]


def _number(value: Any, decimal: str, currency: str) -> Any:
    if isinstance(value, str):
        number = number_of(value, decimal, currency)
        return value if number is None else number
    if not isinstance(value, float | Decimal):
        return value
    number = float(value)
    return None if number != number else number


def _turn_negative(fields: dict[str, list[Any]], event_type: str) -> None:
    """Gives rows with a negative number this type, and makes their numbers positive."""
    columns = [fields[name] for name in SIGNED_FIELDS if name in fields]
    for row, numbers in enumerate(zip(*columns, strict=True)):
        if any(isinstance(number, (int, float)) and number < 0 for number in numbers):
            fields["event_type"][row] = event_type
            for column in columns:
                if isinstance(column[row], (int, float)):
                    column[row] = abs(column[row])


def _dumped(fields: dict[str, list[Any]]) -> list[bytes]:
    """The JSON of each row, without missing values."""
    names, values = tuple(fields), []
    inner = [name for name in names if name.startswith("place.")]
    for row in zip(*fields.values(), strict=True):
        event = {n: value for n, value in zip(names, row, strict=True) if value is not None}
        place = {name[6:]: event.pop(name) for name in inner if name in event}
        values.append(orjson.dumps(event | {"place": place} if place else event))
    return values


def _key(user_id: Any) -> bytes | None:
    return None if user_id is None else str(user_id).encode()


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
