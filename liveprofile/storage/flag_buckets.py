"""Partitioning of risk_flag_by_day: each day has FLAG_BUCKETS partitions."""

from __future__ import annotations

import zlib

FLAG_BUCKETS = 8


def flag_bucket(user_id: str) -> int:
    """The bucket, 0 to FLAG_BUCKETS - 1, that stores a user's flags of a day."""
    return zlib.crc32(user_id.encode()) % FLAG_BUCKETS
