"""Latencies that the Python operators measure, as Flink counters, and how to read them back.

A latency has a counter for each bound of BUCKETS_MS and one without a bound. Each counts the
latencies up to its bound, as the buckets of a Prometheus histogram do. Counters can be added over
workers, so a quantile of all of them is computed from the sums; quantiles of single workers could
not be combined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

EVENT_TO_SCORE = "event_to_score_ms"
EVENT_TO_ALERT = "event_to_alert_ms"
WINDOW_TO_PROFILE = "window_to_profile_ms"
LATENCIES = (EVENT_TO_SCORE, EVENT_TO_ALERT, WINDOW_TO_PROFILE)

# The targets are 300 ms for alerts and 1 s for profiles; above that, an operator needs magnitudes.
BUCKETS_MS = (25, 50, 100, 150, 200, 300, 500, 800, 1_200, 2_500, 5_000, 10_000, 30_000, 60_000)
# Groups of Flink's metrics: a Prometheus reporter of Flink makes the label `le` from it.
BOUND_LABEL, NO_BOUND = "le", "+Inf"
BUCKET, SUM = "bucket", "sum"

_BUCKET_NAME = re.compile(
    rf"\.({'|'.join(LATENCIES)})\.{BOUND_LABEL}\.({re.escape(NO_BOUND)}|\d+)\.{BUCKET}$"
)
_SUM_NAME = re.compile(rf"\.({'|'.join(LATENCIES)})\.{SUM}$")


class LatencyCounts(NamedTuple):
    """Measurements of all workers since the job's last start or restart."""

    buckets: dict[str, int]  # upper bound in ms, or NO_BOUND, to the number up to it; ascending
    sum_ms: int

    @property
    def count(self) -> int:
        return self.buckets[NO_BOUND]

    def bound_ms(self, share: float) -> int | None:
        """The smallest bound within which this share of the latencies is; None: there is none."""
        wanted = share * self.count
        return next((b for b in BUCKETS_MS if self.count and self.buckets[str(b)] >= wanted), None)


def is_latency(name: str) -> bool:
    """Whether a metric of an operator is one of these counters."""
    return bool(_BUCKET_NAME.search(name) or _SUM_NAME.search(name))


def count_latencies(metrics: Mapping[str, float]) -> dict[str, LatencyCounts]:
    """The latencies by name, without those that are not measured yet.

    metrics: of all operators, summed over subtasks.
    """
    buckets: dict[str, dict[str, int]] = {}
    sums: dict[str, int] = {}
    for name, value in metrics.items():
        if match := _BUCKET_NAME.search(name):
            of_name = buckets.setdefault(match[1], {})
            of_name[match[2]] = of_name.get(match[2], 0) + int(value)
        elif match := _SUM_NAME.search(name):
            sums[match[1]] = sums.get(match[1], 0) + int(value)
    bounds = [*map(str, BUCKETS_MS), NO_BOUND]
    return {
        name: LatencyCounts({bound: counts[bound] for bound in bounds}, sums[name])
        for name, counts in buckets.items()
        if name in sums and set(counts) == set(bounds)
    }
