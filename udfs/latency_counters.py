"""Counts latencies of a batch in the buckets of `liveprofile.flink.operator_metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from liveprofile.flink.operator_metrics import BOUND_LABEL, BUCKET, BUCKETS_MS, NO_BOUND, SUM


class LatencyCounters:
    """The Flink counters of one latency.

    group: Flink's metric group of the operator's pipeline. name: of the latency, with its unit.
    """

    def __init__(self, group: Any, name: str):
        group = group.add_group(name)
        bounds = (*map(str, BUCKETS_MS), NO_BOUND)
        self._buckets = [group.add_group(BOUND_LABEL, bound).counter(BUCKET) for bound in bounds]
        self._sum = group.counter(SUM)

    def observe(self, latency_ms: Sequence[float] | np.ndarray) -> None:
        """Counts latencies (n,).

        A negative one counts as 0: two machines' clocks differ by some milliseconds.
        """
        if not len(latency_ms):
            return
        ascending = np.sort(np.maximum(latency_ms, 0.0))
        for counter, count in zip(self._buckets, bucket_counts(ascending), strict=True):
            counter.inc(count)
        self._sum.inc(round(float(ascending.sum())))


def bucket_counts(ascending_ms: np.ndarray) -> list[int]:
    """How many of the ascending latencies are at most each bound; the last is all of them."""
    counts = np.searchsorted(ascending_ms, BUCKETS_MS, side="right").tolist()
    return [*counts, len(ascending_ms)]
