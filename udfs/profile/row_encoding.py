"""Encodes profiles, deltas and look-alike vectors as values of Cassandra's native protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from udfs.cassandra.encoding import (
    Values,
    bigint,
    double,
    encode_column,
    split_fixed_width,
    text_set,
    write_time_us,
)
from udfs.profile.row import ProfileRow

PROFILE_COLUMNS = (
    "user_id",
    "window_end",
    "window_start",
    "model_version",
    "feature_version",
    "churn",
    "expected_spend",
    "recency_days",
    "purchases_decayed",
    "amount_decayed",
    "events_total",
    "segments",
    "profile",
    "embedding",
)
DELTA_COLUMNS = (
    "user_id",
    "window_end",
    "window_start",
    "model_version",
    "events",
    "amount",
    "embedding_distance",
    "surprise",
    "active_rules",
    "delta",
    "digests",
)
LOOKALIKE_COLUMNS = ("user_id", "window_end", "segments", "embedding")
SUMS_COLUMNS = ("user_id", "window_end", "sums")


class EncodedRows(NamedTuple):
    """One entry per row: the partition key, and for each table the values of its INSERT.

    The values follow PROFILE_COLUMNS, DELTA_COLUMNS and LOOKALIKE_COLUMNS, then the write time.
    """

    keys: list[bytes]
    profiles: list[Values]
    deltas: list[Values]
    lookalikes: list[Values]


def encode_rows(batch: Sequence[ProfileRow], embedding_dim: int) -> EncodedRows:
    """Encodes a batch column by column.

    Raises ValueError if an embedding does not have the shape (embedding_dim,).
    """
    embeddings = np.stack([row.embedding for row in batch])
    if embeddings.shape[1:] != (embedding_dim,):
        raise ValueError(
            f"embedding of shape {embeddings.shape[1:]}: the tables need ({embedding_dim},)"
        )
    keys = [row.user_id.encode() for row in batch]
    window_end = encode_column([row.window_end_ms for row in batch], ">i8")
    window_start = encode_column([row.window_start_ms for row in batch], ">i8")
    write_time = encode_column([write_time_us(row) for row in batch], ">i8")
    model_version = [row.model_version.encode() for row in batch]
    segments = [text_set(tuple(row.segments)) for row in batch]
    embedding = split_fixed_width(embeddings.astype(">f4").tobytes(), 4 * embedding_dim)
    profiles = zip(
        keys,
        window_end,
        window_start,
        model_version,
        encode_column([row.feature_version for row in batch], ">i4"),
        encode_column([row.churn for row in batch], ">f8"),
        encode_column([row.expected_spend for row in batch], ">f8"),
        [None if row.recency_days is None else double(row.recency_days) for row in batch],
        encode_column([row.purchases_decayed for row in batch], ">f8"),
        encode_column([row.amount_decayed for row in batch], ">f8"),
        encode_column([row.events_total for row in batch], ">i8"),
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
        encode_column([row.events for row in batch], ">i4"),
        encode_column([row.amount for row in batch], ">f8"),
        encode_column([row.embedding_distance for row in batch], ">f8"),
        encode_column([row.surprise for row in batch], ">f8"),
        [text_set(tuple(row.active_rules)) for row in batch],
        [row.delta_json for row in batch],
        [row.digests for row in batch],
        write_time,
        strict=True,
    )
    lookalikes = zip(keys, window_end, segments, embedding, write_time, strict=True)
    return EncodedRows(
        keys,
        list(map(list, profiles)),
        list(map(list, deltas)),
        list(map(list, lookalikes)),
    )


def encode_sums(row: ProfileRow, sums: Sequence[float]) -> Values:
    """Returns the values of SUMS_COLUMNS and the write time."""
    return [
        row.user_id.encode(),
        bigint(row.window_end_ms),
        np.array(sums, ">f8").tobytes(),
        bigint(write_time_us(row)),
    ]


def decode_sums(data: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(data, ">f8").tolist())
