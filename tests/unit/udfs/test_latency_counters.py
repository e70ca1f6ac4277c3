"""Latencies of a batch in counters, and the counters read back from Flink's names for them."""

from __future__ import annotations

from typing import Any

from liveprofile.flink.operator_metrics import (
    BUCKETS_MS,
    EVENT_TO_ALERT,
    EVENT_TO_SCORE,
    NO_BOUND,
    count_latencies,
    is_latency,
)
from udfs.worker import LatencyCounters


class Group:
    """A metric group that names its counters as Flink's REST interface does."""

    def __init__(self, values: dict[str, float], path: str):
        self._values, self._path = values, path

    def add_group(self, name: str, extra: str | None = None) -> Group:
        return Group(self._values, ".".join(filter(None, (self._path, name, extra))))

    def counter(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        self._values[path] = 0

        class Counter:
            def inc(_, number: int) -> None:
                assert isinstance(number, int)  # Beam refuses numpy's
                self._values[path] += number

        return Counter()


def counted(*batches: list[float], operator: str = "PythonCalc[52]") -> dict[str, float]:
    values: dict[str, float] = {}
    counters = LatencyCounters(Group(values, f"{operator}.liveprofile.events"), EVENT_TO_SCORE)
    for batch in batches:
        counters.observe(batch)
    return values


def test_buckets_of_all_operators_have_latencies_up_to_their_bounds_and_a_negative_one_is_0() -> (
    None
):
    values = counted([25.0, 25.1], [80_000.0])
    values |= counted([700.0], [-40.0], operator="PythonCalc[53]")
    assert all(map(is_latency, values))
    counts = count_latencies(values | {"Calc[1].sum": 9.0})
    assert EVENT_TO_ALERT not in counts
    found = counts[EVENT_TO_SCORE]
    assert [*found.buckets] == [*map(str, BUCKETS_MS), NO_BOUND]
    assert found.buckets["25"] == 2
    assert found.buckets["50"] == found.buckets["500"] == 3
    assert found.buckets["800"] == found.buckets["60000"] == 4
    assert found.count == 5
    assert found.sum_ms == 80_750
