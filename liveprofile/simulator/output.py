"""Event rows as Arrow tables with text ids, as JSON lines, and as files.

Array shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.simulator.plan import CaseKind, IdCounts, PlantedCase
from liveprofile.simulator.world import (
    CHANNELS,
    ITEMS_PER_CATEGORY,
    SHOPS,
    RandomStream,
    World,
    random_generator,
)
from liveprofile.wire.scored_events import CELLS_PER_DEGREE
from liveprofile.wire.tokens import EVENT_TYPES

# Columns of the event table that belong to an object of the JSON event.
PLACE = ("lat", "lon")
ATTRIBUTES = ("shop_id", "address_id")
# Columns that a label copies from its event.
SHARED = ("device_id", "coupon_id", *ATTRIBUTES)
FRAUD, LEGITIMATE = "fraud", "legitimate"
# Users, devices, addresses, coupons, items, categories, shops. The position is part of the key
# of the prefix's random stream: append only.
_PREFIXES = ("u", "d", "a", "c", "i", "k", "s")


class IdMapper:
    """Maps codes to ids: a prefix and a number.

    The numbers are a random permutation of the codes, so an id reveals nothing about its role.
    """

    def __init__(self, seed: int, counts: IdCounts, world: World):
        sizes = (*counts, world.item_count, world.category_count, SHOPS)
        self._numbers = {
            prefix: random_generator(seed, RandomStream.IDS, index)
            .permutation(size)
            .astype(np.int32)
            for index, (prefix, size) in enumerate(zip(_PREFIXES, sizes, strict=True))
        }

    def ids(self, prefix: str, codes: np.ndarray) -> pa.Array:
        """(N,) ids, null for codes below 0."""
        numbers = self._numbers[prefix]
        array = pa.array(numbers[codes], mask=codes < 0).cast(pa.string())
        digits = pc.utf8_lpad(array, width=len(str(len(numbers) - 1)), padding="0")
        return pc.binary_join_element_wise(prefix, digits, "")


class ShopDay(NamedTuple):
    """N events in order of time, and a label for each event of a planted case."""

    events: pa.Table
    labels: pa.Table

    def records(self) -> Iterator[dict[str, Any]]:
        """Events of the data contract, without missing fields."""
        return _event_records(self.events)

    def lines(self) -> bytes:
        """Events as JSON lines."""
        return json_lines(self.records())

    def label_lines(self) -> bytes:
        """Labels as JSON lines for `liveprofile risk feedback`, without missing fields."""
        return json_lines(_present_fields(self.labels))


def json_lines(values: Any) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def build_day(
    rows: np.ndarray, first_number: int, seed: int, mapper: IdMapper, cases: list[PlantedCase]
) -> ShopDay:
    """The tables of (N,) rows in order of time.

    `first_number`: number of events in the run before this day; event ids count on from it.
    """
    numbers = pa.array(np.arange(first_number, first_number + len(rows))).cast(pa.string())
    event_id = pc.binary_join_element_wise(f"e{seed}", numbers, "-")
    user_id = mapper.ids("u", rows["user"])
    category = np.where(rows["item"] < 0, -1, rows["item"] // ITEMS_PER_CATEGORY)
    columns = {
        "event_id": event_id,
        "user_id": user_id,
        "event_type": _decode(EVENT_TYPES, rows["type"]),
        "event_time": pa.array(rows["time_ms"]),
        "item_id": mapper.ids("i", rows["item"]),
        "category_id": mapper.ids("k", category),
        "price": _nan_to_null(rows["price"]),
        "quantity": pa.array(rows["quantity"], mask=rows["quantity"] < 0),
        "amount": _nan_to_null(rows["amount"]),
        "device_id": mapper.ids("d", rows["device"]),
        "lat": _nan_to_null(rows["lat"]),
        "lon": _nan_to_null(rows["lon"]),
        "coupon_id": mapper.ids("c", rows["coupon"]),
        "channel": _decode(CHANNELS, rows["channel"]),
        "friend_id": mapper.ids("u", rows["friend"]),
        "shop_id": mapper.ids("s", rows["shop"]),
        "address_id": mapper.ids("a", rows["address"]),
    }
    events = pa.table(columns)
    return ShopDay(events, _labels(rows, events, cases))


def _labels(rows: np.ndarray, events: pa.Table, cases: list[PlantedCase]) -> pa.Table:
    index = np.flatnonzero(rows["case"] >= 0)
    labelled = events.take(pa.array(index))
    number = rows["case"][index]
    kind = np.array([case.kind for case in cases], np.int64)[number]
    delay_ms = np.array([case.label_delay_ms for case in cases], np.int64)[number]
    is_fraud = np.array([each.is_fraud for each in CaseKind])[kind]
    label = _decode((LEGITIMATE, FRAUD), is_fraud.astype(np.int64))
    return pa.table(
        {
            "event_id": labelled["event_id"],
            "user_id": labelled["user_id"],
            "event_time": labelled["event_time"],
            "label": label,
            "kind": _decode([each.text for each in CaseKind], kind),
            "case": pa.array(number),
            "known_at": pa.array(rows["time_ms"][index] + delay_ms),
            **{name: labelled[name] for name in SHARED},
            "place": _cells(rows["lat"][index], rows["lon"][index]),
        }
    )


def _cells(lat_N: np.ndarray, lon_N: np.ndarray) -> pa.Array:
    """(N,) grid cells in the notation of labels, null where the location is missing."""
    unknown_N = np.isnan(lat_N)
    lat, lon = (
        pa.array(np.floor(np.where(unknown_N, 0.0, degrees_N) * CELLS_PER_DEGREE).astype(np.int64))
        for degrees_N in (lat_N, lon_N)
    )
    cells = pc.binary_join_element_wise(lat.cast(pa.string()), lon.cast(pa.string()), ":")
    return pc.if_else(pa.array(unknown_N), None, cells)


def _present_fields(table: pa.Table) -> Iterator[dict[str, Any]]:
    for row in table.to_pylist():
        yield {name: value for name, value in row.items() if value is not None}


def _decode(names: Any, index: np.ndarray) -> pa.Array:
    return pa.array(list(names)).take(pa.array(index))


def _nan_to_null(values: np.ndarray) -> pa.Array:
    return pa.array(values, from_pandas=True)


def _event_records(table: pa.Table) -> Iterator[dict[str, Any]]:
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
    """The result of `to_pylist`, several times as fast."""
    if pa.types.is_string(column.type):
        return column.to_numpy().tolist()
    values = column.fill_null(0).to_numpy().astype(object)
    values[column.is_null().to_numpy()] = None
    return values.tolist()


STDOUT = Path("-")


def nest_attributes(events: pa.Table) -> pa.Table:
    """The table with its attribute columns in one struct column: see mappings/generated.toml."""
    parts = [events[name].combine_chunks() for name in ATTRIBUTES]
    struct = pa.StructArray.from_arrays(parts, names=list(ATTRIBUTES))
    return events.drop_columns(list(ATTRIBUTES)).append_column("attributes", struct)


def day_writer(
    path: Path,
    stack: ExitStack,
    lines: Callable[[ShopDay], bytes],
    table: Callable[[ShopDay], pa.Table],
) -> Callable[[ShopDay], object]:
    try:
        if path.suffix == ".jsonl":
            file = stack.enter_context(path.open("wb"))
            return lambda day: file.write(lines(day))
        if path.suffix == ".parquet":
            path.open("wb").close()
            opened: list[pq.ParquetWriter] = []

            def write(day: ShopDay) -> None:
                rows = table(day)
                if not opened:
                    opened.append(stack.enter_context(pq.ParquetWriter(path, rows.schema)))
                opened[0].write_table(rows)

            return write
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    raise InputError(f"{path}: the file name must end in .jsonl or .parquet")
