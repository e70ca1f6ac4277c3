"""Rows as the bytes of Cassandra's native protocol, whole columns at once.

The driver's bind() serialises value by value in Python and costs more than everything else on
the client; numpy turns a column of numbers into big-endian bytes in one go. Wire formats: Apache
Cassandra, native protocol specification v5, section 6.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import orjson

from liveprofile.units import DAY_MS

if TYPE_CHECKING:
    from cassandra.query import PreparedStatement

    from liveprofile.rules.flags import Flag, Flagged

Values = list[bytes | None]

FLAG_BUCKETS = 8
# A mutation counts more than its values: write time, TTL and expiry of each cell and each row.
CELL_BYTES, ROW_BYTES = 16, 48

FLAG_COLUMNS = (
    "user_id", "window_end", "rule_id", "flag_id", "window_start", "reason", "severity", "action",
    "value", "threshold", "message", "evidence", "model_version", "rules_version", "event_id",
    "rule_version", "rule_state", "reasons",
)  # fmt: skip
FLAG_BY_DAY_COLUMNS = ("day", "bucket", *FLAG_COLUMNS)


def insert(keyspace: str, table: str, columns: Sequence[str], ttl_s: int) -> str:
    """The INSERT that the value lists of this module fit. ttl_s = 0: kept for ever."""
    marks = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO {keyspace}.{table} ({', '.join(columns)}) VALUES ({marks})"
        f" USING TIMESTAMP ? AND TTL {ttl_s}"
    )


def flag(row: Flagged, raised: Flag) -> Values:
    """The values of FLAG_COLUMNS and the write time."""
    return [
        row.user_id.encode(),
        bigint(row.window_end_ms),
        raised.rule_id.encode(),
        raised.flag_id.encode(),
        bigint(row.window_start_ms),
        raised.reason.encode(),
        raised.severity.encode(),
        raised.action.encode(),
        double(raised.value),
        double(raised.threshold),
        raised.message.encode(),
        orjson.dumps(raised.evidence, option=orjson.OPT_SERIALIZE_NUMPY),
        row.model_version.encode(),
        raised.rules_version.encode(),
        raised.event_id.encode(),
        struct.pack(">i", raised.rule_version),
        raised.rule_state.encode(),
        orjson.dumps(list(raised.reasons), option=orjson.OPT_SERIALIZE_NUMPY),
        bigint(row.window_end_ms * 1_000 + row.revision),
    ]


def flag_by_day(row: Flagged, raised: Flag) -> Values:
    """The values of FLAG_BY_DAY_COLUMNS and the write time."""
    # A date counts days from 2^31, the epoch.
    day = struct.pack(">I", row.window_end_ms // DAY_MS + (1 << 31))
    return [day, struct.pack(">b", flag_bucket(row.user_id)), *flag(row, raised)]


def flag_day_and_bucket(values: Values) -> tuple[bytes | None, ...]:
    """The partition of a `flag_by_day`."""
    return tuple(values[:2])


def flag_bucket(user_id: str) -> int:
    """Which of a day's partitions holds a user's flags."""
    return zlib.crc32(user_id.encode()) % FLAG_BUCKETS


def size(writes: Iterable[tuple[PreparedStatement, Values]]) -> int:
    """Bytes of a mutation about as the server counts them, never fewer."""
    total = 0
    for _, values in writes:
        total += sum(map(len, filter(None, values))) + CELL_BYTES * len(values) + ROW_BYTES
    return total


def bigint(value: int) -> bytes:
    return struct.pack(">q", value)


def double(value: float) -> bytes:
    return struct.pack(">d", value)


@lru_cache(maxsize=4_096)
def text_set(names: tuple[str, ...]) -> bytes:
    """A set<text>; few distinct ones exist."""
    items = [name.encode() for name in sorted(set(names))]
    return struct.pack(">i", len(items)) + b"".join(
        struct.pack(">i", len(item)) + item for item in items
    )


def cells(values: Sequence[float] | np.ndarray, dtype: str) -> list[bytes]:
    column = np.array(values, dtype)
    return split(column.tobytes(), column.itemsize)


def split(data: bytes, width: int) -> list[bytes]:
    return [data[start : start + width] for start in range(0, len(data), width)]
