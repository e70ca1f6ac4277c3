"""Encodes rows as values of Cassandra's native protocol.

The values are the bytes that a bound statement sends, so the driver's `bind` is not needed: it
serialises value by value in Python, which costs more than all other work of the client. numpy turns
a column of numbers into big-endian bytes at once. Formats: Apache Cassandra, native protocol
specification v5, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from liveprofile.storage.flag_buckets import flag_bucket
from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from cassandra.query import PreparedStatement

    from liveprofile.rules.flags import Flag, FlaggedRow

# Encoded values of one statement in the order of its marks: bytes, None or UNSET_VALUE.
Values = list[Any]

# Cassandra adds to the values of a mutation the write time, TTL and expiry of each cell and row.
CELL_BYTES, ROW_BYTES = 16, 48
EPOCH_DAY = 1 << 31  # the protocol's `date` of 1970-01-01

FLAG_COLUMNS = (
    "user_id",
    "window_end",
    "rule_id",
    "flag_id",
    "window_start",
    "reason",
    "severity",
    "action",
    "value",
    "threshold",
    "message",
    "evidence",
    "model_version",
    "rules_version",
    "event_id",
    "rule_version",
    "rule_state",
    "reasons",
)
FLAG_BY_DAY_COLUMNS = ("day", "bucket", *FLAG_COLUMNS)


def insert_cql(keyspace: str, table: str, columns: Sequence[str], ttl_s: int) -> str:
    """Returns an INSERT for the values of `columns`, then the row's `write_time_us`."""
    marks = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO {keyspace}.{table} ({', '.join(columns)}) VALUES ({marks})"
        f" USING TIMESTAMP ? AND TTL {ttl_s}"
    )


def write_time_us(row: FlaggedRow) -> int:
    """Returns the USING TIMESTAMP of every write of a row (docs/data-contract.md, section 8).

    So a later window wins over an earlier one that arrives after it. Two writes of one window or
    event have equal times. Cassandra then keeps the cells that expire later. Expiry counts whole
    seconds and all cells of a write have one TTL, so a replay, which comes seconds later, replaces
    the whole row.
    """
    return row.window_end_ms * 1_000 + row.revision


def encode_flag(row: FlaggedRow, flag: Flag) -> Values:
    """Returns the values of FLAG_COLUMNS and the write time."""
    return [
        row.user_id.encode(),
        bigint(row.window_end_ms),
        flag.rule_id.encode(),
        flag.flag_id.encode(),
        bigint(row.window_start_ms),
        flag.reason.encode(),
        flag.severity.encode(),
        flag.action.encode(),
        double(flag.value),
        double(flag.threshold),
        flag.message.encode(),
        orjson.dumps(flag.evidence, option=orjson.OPT_SERIALIZE_NUMPY),
        row.model_version.encode(),
        flag.rules_version.encode(),
        flag.event_id.encode(),
        integer(flag.rule_version),
        flag.rule_state.encode(),
        orjson.dumps(list(flag.reasons), option=orjson.OPT_SERIALIZE_NUMPY),
        bigint(write_time_us(row)),
    ]


def encode_flag_by_day(row: FlaggedRow, flag: Flag) -> Values:
    """Returns the values of FLAG_BY_DAY_COLUMNS and the write time."""
    return [*day_and_bucket(row.user_id, row.window_end_ms), *encode_flag(row, flag)]


def day_and_bucket(user_id: str, time_ms: int) -> list[bytes]:
    """Encodes the partition key of risk_flag_by_day."""
    day = struct.pack(">I", time_ms // DAY_MS + EPOCH_DAY)
    return [day, struct.pack(">b", flag_bucket(user_id))]


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
    items = [name.encode() for name in sorted(set(names))]
    return struct.pack(">i", len(items)) + b"".join(
        struct.pack(">i", len(item)) + item for item in items
    )


def encode_column(values: Sequence[float] | np.ndarray, dtype: str) -> list[bytes]:
    """Encodes a column of numbers; dtype: big-endian, e.g. ">f8"."""
    column = np.array(values, dtype)
    return split_fixed_width(column.tobytes(), column.itemsize)


def split_fixed_width(data: bytes, width: int) -> list[bytes]:
    """Cuts `data` into values of `width` bytes."""
    return [data[start : start + width] for start in range(0, len(data), width)]
