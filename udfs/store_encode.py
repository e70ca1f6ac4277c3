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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

if TYPE_CHECKING:
    from cassandra.query import PreparedStatement

    from udfs.flags import Flag, Flagged
    from udfs.store import ProfileRow

Values = list[bytes | None]

DAY_MS = 86_400_000
FLAG_BUCKETS = 8
# A mutation counts more than its values: write time, TTL and expiry of each cell and each row.
CELL_BYTES, ROW_BYTES = 16, 48

PROFILE_COLUMNS = (
    "user_id", "window_end", "window_start", "model_version", "feature_version", "churn",
    "expected_spend", "recency_days", "purchases_decayed", "amount_decayed", "events_total",
    "segments", "profile", "embedding",
)  # fmt: skip
DELTA_COLUMNS = (
    "user_id", "window_end", "window_start", "model_version", "events", "amount",
    "embedding_distance", "surprise", "active_rules", "delta", "digests",
)  # fmt: skip
LOOKALIKE_COLUMNS = ("user_id", "window_end", "segments", "embedding")
FLAG_COLUMNS = (
    "user_id", "window_end", "rule_id", "flag_id", "window_start", "reason", "severity", "action",
    "value", "threshold", "message", "evidence", "model_version", "rules_version", "event_id",
    "rule_version", "rule_state", "reasons",
)  # fmt: skip
FLAG_BY_DAY_COLUMNS = ("day", "bucket", *FLAG_COLUMNS)


class Encoded(NamedTuple):
    """One entry a row; each list of values ends with the write time."""

    keys: list[bytes]
    profiles: list[Values]
    deltas: list[Values]
    lookalikes: list[Values]


def insert(keyspace: str, table: str, columns: Sequence[str], ttl_s: int) -> str:
    """The INSERT that the value lists of this module fit. ttl_s = 0: kept for ever."""
    marks = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO {keyspace}.{table} ({', '.join(columns)}) VALUES ({marks})"
        f" USING TIMESTAMP ? AND TTL {ttl_s}"
    )


def rows(batch: Sequence[ProfileRow], embedding_dim: int) -> Encoded:
    """Raises ValueError for an embedding of another size than (embedding_dim,)."""
    embeddings = np.stack([row.embedding for row in batch])
    if embeddings.shape[1:] != (embedding_dim,):
        raise ValueError(
            f"an embedding of shape {embeddings.shape[1:]}, the store expects ({embedding_dim},)"
        )
    keys = [row.user_id.encode() for row in batch]
    ends_ms = np.array([row.window_end_ms for row in batch], np.int64)
    revisions = np.array([row.revision for row in batch], np.int64)
    window_end = _cells(ends_ms, ">i8")
    window_start = _cells([row.window_start_ms for row in batch], ">i8")
    write_time = _cells(ends_ms * 1_000 + revisions, ">i8")
    model_version = [row.model_version.encode() for row in batch]
    segments = [text_set(tuple(row.segments)) for row in batch]
    embedding = _split(embeddings.astype(">f4").tobytes(), 4 * embedding_dim)
    profiles = zip(
        keys,
        window_end,
        window_start,
        model_version,
        _cells([row.feature_version for row in batch], ">i4"),
        _cells([row.churn for row in batch], ">f8"),
        _cells([row.expected_spend for row in batch], ">f8"),
        [None if row.recency_days is None else double(row.recency_days) for row in batch],
        _cells([row.purchases_decayed for row in batch], ">f8"),
        _cells([row.amount_decayed for row in batch], ">f8"),
        _cells([row.events_total for row in batch], ">i8"),
        segments,
        [row.profile_json for row in batch],
        embedding,
        write_time,
        strict=True,
    )
    deltas = zip(
        keys,
        window_end,
        window_start,
        model_version,
        _cells([row.events for row in batch], ">i4"),
        _cells([row.amount for row in batch], ">f8"),
        _cells([row.embedding_distance for row in batch], ">f8"),
        _cells([row.surprise for row in batch], ">f8"),
        [text_set(tuple(row.active_rules)) for row in batch],
        [row.delta_json for row in batch],
        [row.digests for row in batch],
        write_time,
        strict=True,
    )
    lookalikes = zip(keys, window_end, segments, embedding, write_time, strict=True)
    return Encoded(
        keys,
        list(map(list, profiles)),
        list(map(list, deltas)),
        list(map(list, lookalikes)),
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


def _cells(values: Sequence[float] | np.ndarray, dtype: str) -> list[bytes]:
    column = np.array(values, dtype)
    return _split(column.tobytes(), column.itemsize)


def _split(data: bytes, width: int) -> list[bytes]:
    return [data[start : start + width] for start in range(0, len(data), width)]
