"""Encodes rows as values of Cassandra's native protocol.

The values are the bytes that a bound statement sends, so the driver's `bind` is not needed: it
serialises value by value in Python, which costs more than all other work of the client. numpy turns
a column of numbers into big-endian bytes at once. Formats: Apache Cassandra, native protocol
specification v5, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from liveprofile.rows.profiles import MARKS
from liveprofile.rows.risk import flag_bucket
from liveprofile.rows.table import Column, Table
from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from cassandra.query import PreparedStatement

    from liveprofile.rules.flags import Flag, FlaggedRow

# Encoded values of one statement in the order of its marks: bytes, None or UNSET_VALUE.
Values = list[Any]

# Cassandra adds to the values of a mutation the write time, TTL and expiry of each cell and row.
CELL_BYTES, ROW_BYTES = 16, 48
EPOCH_DAY = 1 << 31  # the protocol's `date` of 1970-01-01


def write_time_us(row: FlaggedRow) -> int:
    """Returns the USING TIMESTAMP of every write of a row (docs/data-contract.md, section 8).

    So a later window wins over an earlier one that arrives after it. Two writes of one window or
    event have equal times. Cassandra then keeps the cells that expire later. Expiry counts whole
    seconds and all cells of a write have one TTL, so a replay, which comes seconds later, replaces
    the whole row.
    """
    return window_time_us(row.window_end_ms, row.revision)


def window_time_us(window_end_ms: int, revision: int) -> int:
    """The same, before there is a row."""
    return window_end_ms * 1_000 + revision


def encode_flag(table: Table, row: FlaggedRow, flag: Flag) -> Values:
    """Returns the values of risk_flag or risk_flag_by_day and the write time."""
    fields = flag._asdict() | {
        "user_id": row.user_id,
        "window_start_ms": row.window_start_ms,
        "window_end_ms": row.window_end_ms,
        "model_version": row.model_version,
        "day": row.window_end_ms // DAY_MS,
        "bucket": flag_bucket(row.user_id),
    }
    columns = [column for column in table.columns.values() if column.name not in MARKS]
    return encode_row(columns, [fields[column.field] for column in columns], write_time_us(row))


def encode_row(columns: Iterable[Column], values: Iterable[Any], time_us: int) -> Values:
    """Encodes the values of columns, and the write time."""
    encoded = [_encode(column.cql, value) for column, value in zip(columns, values, strict=True)]
    return [*encoded, bigint(time_us)]


def encode_column(column: Column, values: Sequence[Any]) -> list[bytes | None]:
    """Encodes what many rows have in a column."""
    dtype = _NUMBERS.get(column.cql)
    if dtype is not None and not column.nullable:
        return encode_numbers(values, dtype)
    if column.cql.startswith("vector<float"):
        vectors = np.asarray(values, ">f4")
        return split_fixed_width(vectors.tobytes(), 4 * vectors.shape[1])
    if column.cql == "text" and not column.nullable and isinstance(values[0], str):
        return [value.encode() for value in values]
    encode = _ENCODERS[column.cql]
    return [None if value is None else encode(value) for value in values]


def _encode(cql: str, value: Any) -> bytes | None:
    return None if value is None else _ENCODERS[cql](value)


def day_and_bucket(user_id: str, time_ms: int) -> list[bytes]:
    """Encodes the partition key of risk_flag_by_day."""
    return [_encode("date", time_ms // DAY_MS), _encode("tinyint", flag_bucket(user_id))]


def partition_key(*components: bytes) -> bytes:
    """Encodes a partition key of several columns, as routing needs it."""
    return b"".join(struct.pack(">H", len(part)) + part + b"\0" for part in components)


def mutation_bytes(writes: Iterable[tuple[PreparedStatement, Values]]) -> int:
    """Estimates the bytes of a mutation as the server counts them; never too few."""
    total = 0
    for _, values in writes:
        set_values = [value for value in values if type(value) is bytes]
        total += sum(map(len, set_values)) + CELL_BYTES * len(values) + ROW_BYTES
    return total


def bigint(value: int) -> bytes:
    """Encodes a bigint or a timestamp in milliseconds."""
    return struct.pack(">q", value)


def integer(value: int) -> bytes:
    """Encodes an int."""
    return struct.pack(">i", value)


def double(value: float) -> bytes:
    return struct.pack(">d", value)


@lru_cache(maxsize=4_096)
def text_set(names: tuple[str, ...]) -> bytes:
    """Encodes a set<text>. Cached, because few distinct sets occur."""
    return text_list(sorted(set(names)))


def text_list(texts: Sequence[str]) -> bytes:
    """Encodes a list<text>, such as the values of IN."""
    items = [text.encode() for text in texts]
    return struct.pack(">i", len(items)) + b"".join(
        struct.pack(">i", len(item)) + item for item in items
    )


def encode_numbers(values: Sequence[float], dtype: str) -> list[bytes]:
    """Encodes numbers; dtype: big-endian, e.g. ">f8"."""
    column = np.array(values, dtype)
    return split_fixed_width(column.tobytes(), column.itemsize)


def split_fixed_width(data: bytes, width: int) -> list[bytes]:
    """Cuts `data` into values of `width` bytes."""
    return [data[start : start + width] for start in range(0, len(data), width)]


def _text(value: Any) -> bytes:
    """Encodes a text, or anything else as JSON; bytes are a text that is encoded already."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


_NUMBERS = {"timestamp": ">i8", "bigint": ">i8", "int": ">i4", "double": ">f8"}
_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "text": _text,
    "blob": bytes,
    "boolean": lambda value: b"\x01" if value else b"\x00",
    "timestamp": bigint,
    "bigint": bigint,
    "int": integer,
    "smallint": struct.Struct(">h").pack,
    "tinyint": struct.Struct(">b").pack,
    "date": lambda day: struct.pack(">I", day + EPOCH_DAY),
    "double": double,
    "frozen<set<text>>": lambda names: text_set(tuple(names)),
    "set<text>": lambda names: text_set(tuple(names)),
}
