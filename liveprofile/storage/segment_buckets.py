"""Partitioning of segment_member: each segment has SEGMENT_BUCKETS partitions."""

from __future__ import annotations

import zlib

SEGMENT_BUCKETS = 64  # a segment of ten million users has 156,000 rows a partition


def segment_bucket(user_id: str) -> int:
    """The bucket, 0 to SEGMENT_BUCKETS - 1, that holds the user."""
    return zlib.crc32(user_id.encode()) % SEGMENT_BUCKETS
