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


def test_bucket_has_the_latencies_up_to_its_bound_and_a_negative_one_is_zero() -> None:
    values = counted([25.0, 25.1, 700.0], [80_000.0, -40.0])
    assert all(map(is_latency, values))
    found = count_latencies(values)[EVENT_TO_SCORE]
    assert [*found.buckets] == [*map(str, BUCKETS_MS), NO_BOUND]
    assert found.buckets["25"] == 2
    assert found.buckets["50"] == found.buckets["500"] == 3
    assert found.buckets["800"] == found.buckets["60000"] == 4
    assert found.count == 5
    assert found.sum_ms == 80_750


def test_counters_of_two_operators_are_added() -> None:
    found = count_latencies(
        counted([10.0]) | counted([10.0, 600.0], operator="PythonCalc[53]") | {"Calc[1].sum": 9.0}
    )
    assert found[EVENT_TO_SCORE].buckets["25"] == 2
    assert found[EVENT_TO_SCORE].count == 3
    assert EVENT_TO_ALERT not in found
