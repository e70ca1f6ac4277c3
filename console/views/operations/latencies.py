"""How long events and windows take, from the counters of the job."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from console.charts.bars import BarChart, bar_chart
from console.formats import number
from liveprofile.flink.operator_metrics import (
    BUCKETS_MS,
    EVENT_TO_ALERT,
    EVENT_TO_SCORE,
    WINDOW_TO_PROFILE,
    LatencyCounts,
)

NAMES = {
    EVENT_TO_ALERT: "event until alert",
    EVENT_TO_SCORE: "event until score stored",
    WINDOW_TO_PROFILE: "window closed until profile stored",
}


class LatencyRow(NamedTuple):
    name: str
    measured: str
    mean: str
    half: str
    most: str  # 99 %
    chart: BarChart


def latency_rows(latencies: Mapping[str, LatencyCounts]) -> list[LatencyRow]:
    """Those that have been measured."""
    return [_row(name, latencies[key]) for key, name in NAMES.items() if _is_known(latencies, key)]


def _is_known(latencies: Mapping[str, LatencyCounts], key: str) -> bool:
    return key in latencies and latencies[key].count > 0


def _row(name: str, counts: LatencyCounts) -> LatencyRow:
    reached = [0, *counts.buckets.values()]
    shares = [(high - low) / counts.count for low, high in pairwise(reached)]
    labels = [*map(_short, BUCKETS_MS), "more"]
    return LatencyRow(
        name,
        number(counts.count),
        _written(counts.sum_ms / counts.count),
        _within(counts, 0.5),
        _within(counts, 0.99),
        bar_chart(labels, [("share", shares)]),
    )


def _within(counts: LatencyCounts, share: float) -> str:
    bound_ms = counts.bound_ms(share)
    return f"more than {_short(BUCKETS_MS[-1])}" if bound_ms is None else _written(bound_ms)


def _written(ms: float) -> str:
    return f"{number(ms, 0)} ms" if ms < 1_000 else f"{number(ms / 1_000, 1)} s"


def _short(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else f"{number(ms / 1_000, 1)} s"
