"""Profiles, deltas and look-alike vectors as the bytes of Cassandra's native protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from udfs.cassandra.encoding import Values, cells, double, split, text_set
from udfs.profile.profile_row import ProfileRow

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


class Encoded(NamedTuple):
    """One entry a row; each list of values ends with the write time."""

    keys: list[bytes]
    profiles: list[Values]
    deltas: list[Values]
    lookalikes: list[Values]


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
    window_end = cells(ends_ms, ">i8")
    window_start = cells([row.window_start_ms for row in batch], ">i8")
    write_time = cells(ends_ms * 1_000 + revisions, ">i8")
    model_version = [row.model_version.encode() for row in batch]
    segments = [text_set(tuple(row.segments)) for row in batch]
    embedding = split(embeddings.astype(">f4").tobytes(), 4 * embedding_dim)
    profiles = zip(
        keys,
        window_end,
        window_start,
        model_version,
        cells([row.feature_version for row in batch], ">i4"),
        cells([row.churn for row in batch], ">f8"),
        cells([row.expected_spend for row in batch], ">f8"),
        [None if row.recency_days is None else double(row.recency_days) for row in batch],
        cells([row.purchases_decayed for row in batch], ">f8"),
        cells([row.amount_decayed for row in batch], ">f8"),
        cells([row.events_total for row in batch], ">i8"),
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
        cells([row.events for row in batch], ">i4"),
        cells([row.amount for row in batch], ">f8"),
        cells([row.embedding_distance for row in batch], ">f8"),
        cells([row.surprise for row in batch], ">f8"),
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
