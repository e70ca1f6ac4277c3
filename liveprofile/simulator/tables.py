"""Codes become names, rows become Arrow tables, and tables become JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from liveprofile.simulator.plan import Case, Kind, Sizes
from liveprofile.simulator.rows import CHANNELS
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.world import ITEMS_PER_CATEGORY, SHOPS, World
from liveprofile.wire.scored_events import CELLS_PER_DEGREE
from liveprofile.wire.tokens import EVENT_TYPES

# Columns of the events' table that stand in an object of the JSON event.
PLACE = ("lat", "lon")
ATTRIBUTES = ("shop_id", "address_id")
SHARED = ("device_id", "coupon_id", *ATTRIBUTES)  # columns that a label has of its event
FRAUD, LEGITIMATE = "fraud", "legitimate"
_PREFIXES = ("u", "d", "a", "c", "i", "k", "s")  # a stream each: append only


class Names:
    """An id is a prefix and a number; which number a code gets is drawn, so an id tells nothing."""

    def __init__(self, seed: int, sizes: Sizes, world: World):
        counts = (*sizes, world.items, world.categories, SHOPS)
        self._numbers = {
            prefix: generator(seed, Stream.NAMES, at).permutation(count).astype(np.int32)
            for at, (prefix, count) in enumerate(zip(_PREFIXES, counts, strict=True))
        }

    def of(self, prefix: str, codes: np.ndarray) -> pa.Array:
        """(N,) names, null for codes below 0."""
        numbers = self._numbers[prefix]
        array = pa.array(numbers[codes], mask=codes < 0).cast(pa.string())
        digits = pc.utf8_lpad(array, width=len(str(len(numbers) - 1)), padding="0")
        return pc.binary_join_element_wise(prefix, digits, "")


class Day(NamedTuple):
    """N events in order of time, and a label for each that belongs to a planted case."""

    events: pa.Table
    labels: pa.Table

    def records(self) -> Iterator[dict[str, Any]]:
        """Events of the data contract; what is missing is left out."""
        return _records(self.events)

    def lines(self) -> bytes:
        """Events as JSON lines."""
        return json_lines(self.records())

    def label_lines(self) -> bytes:
        """As `liveprofile feedback send` takes them; what is missing is left out."""
        return json_lines(_present(self.labels))


def json_lines(values: Any) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def day_of(rows: np.ndarray, first: int, seed: int, names: Names, cases: list[Case]) -> Day:
    """Of rows in order of time; `first`: how many events the run had before."""
    numbers = pa.array(np.arange(first, first + len(rows))).cast(pa.string())
    event_id = pc.binary_join_element_wise(f"e{seed}", numbers, "-")
    user_id = names.of("u", rows["user"])
    category = np.where(rows["item"] < 0, -1, rows["item"] // ITEMS_PER_CATEGORY)
    columns = {
        "event_id": event_id,
        "user_id": user_id,
        "event_type": _choice(EVENT_TYPES, rows["type"]),
        "event_time": pa.array(rows["time_ms"]),
        "item_id": names.of("i", rows["item"]),
        "category_id": names.of("k", category),
        "price": _number(rows["price"]),
        "quantity": pa.array(rows["quantity"], mask=rows["quantity"] < 0),
        "amount": _number(rows["amount"]),
        "device_id": names.of("d", rows["device"]),
        "lat": _number(rows["lat"]),
        "lon": _number(rows["lon"]),
        "coupon_id": names.of("c", rows["coupon"]),
        "channel": _choice(CHANNELS, rows["channel"]),
        "friend_id": names.of("u", rows["friend"]),
        "shop_id": names.of("s", rows["shop"]),
        "address_id": names.of("a", rows["address"]),
    }
    events = pa.table(columns)
    return Day(events, _labels(rows, events, cases))


def _labels(rows: np.ndarray, events: pa.Table, cases: list[Case]) -> pa.Table:
    at = np.flatnonzero(rows["case"] >= 0)
    labelled = events.take(pa.array(at))
    number = rows["case"][at]
    kind = np.array([case.kind for case in cases], np.int64)[number]
    delay_ms = np.array([case.delay_ms for case in cases], np.int64)[number]
    fraud = np.array([each.fraud for each in Kind])[kind]
    label = _choice((LEGITIMATE, FRAUD), fraud.astype(np.int64))
    return pa.table(
        {
            "event_id": labelled["event_id"],
            "user_id": labelled["user_id"],
            "event_time": labelled["event_time"],
            "label": label,
            "kind": _choice([each.label for each in Kind], kind),
            "case": pa.array(number),
            "known_at": pa.array(rows["time_ms"][at] + delay_ms),
            **{name: labelled[name] for name in SHARED},
            "place": _cells(rows["lat"][at], rows["lon"][at]),
        }
    )


def _cells(lat_N: np.ndarray, lon_N: np.ndarray) -> pa.Array:
    """Grid cells as a label names them, null where there is no place."""
    unknown_N = np.isnan(lat_N)
    lat, lon = (
        pa.array(np.floor(np.where(unknown_N, 0.0, degrees_N) * CELLS_PER_DEGREE).astype(np.int64))
        for degrees_N in (lat_N, lon_N)
    )
    cells = pc.binary_join_element_wise(lat.cast(pa.string()), lon.cast(pa.string()), ":")
    return pc.if_else(pa.array(unknown_N), None, cells)


def _present(table: pa.Table) -> Iterator[dict[str, Any]]:
    for row in table.to_pylist():
        yield {name: value for name, value in row.items() if value is not None}


def _choice(names: Any, index: np.ndarray) -> pa.Array:
    return pa.array(list(names)).take(pa.array(index))


def _number(values: np.ndarray) -> pa.Array:
    return pa.array(values, from_pandas=True)  # NaN: null


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    values = {name: _values(table[name]) for name in table.column_names}
    for field, parts in (("place", PLACE), ("attributes", ATTRIBUTES)):
        values[field] = [
            {name: part for name, part in zip(parts, row, strict=True) if part is not None} or None
            for row in zip(*(values.pop(name) for name in parts), strict=True)
        ]
    names = tuple(values)
    for row in zip(*values.values(), strict=True):
        yield {name: value for name, value in zip(names, row, strict=True) if value is not None}


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As to_pylist gives, in a fraction of its time."""
    if pa.types.is_string(column.type):
        return column.to_numpy().tolist()
    values = column.fill_null(0).to_numpy().astype(object)
    values[column.is_null().to_numpy()] = None
    return values.tolist()
