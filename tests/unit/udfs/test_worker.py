"""The workers' cache of attributes, and their counters of latencies read back from Flink."""

from collections.abc import Iterable
from typing import Any, Self

from liveprofile.attributes.statements import SEGMENT_PURPOSES, Statement
from liveprofile.flink.operator_metrics import (
    BUCKETS_MS,
    EVENT_TO_ALERT,
    EVENT_TO_SCORE,
    NO_BOUND,
    count_latencies,
    is_latency,
)
from tests.support.rows.statements import stated
from udfs.attribute_reads import CachedAttributes
from udfs.worker import LatencyCounters

START_MS = 1_700_000_000_000


class Store:
    """Counts what is read."""

    def __init__(self, *statements: Statement):
        self.stored = {one.user_id: [one] for one in statements}
        self.reads: list[list[str]] = []

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        self.reads.append(list(user_ids))
        return {user: self.stored.get(user, []) for user in self.reads[-1]}


def values(cache: CachedAttributes, *user_ids: str) -> list[dict[str, object]]:
    return cache.values(user_ids, [START_MS] * len(user_ids), SEGMENT_PURPOSES)


def test_user_is_read_once_until_the_entry_is_too_old() -> None:
    store, clock_s = Store(stated("u", START_MS, a=1)), [0.0]
    cache = CachedAttributes(store, max_age_s=30, clock_s=lambda: clock_s[0])
    assert cache.rule_columns([], ["u"], [START_MS]) == {} and store.reads == []
    assert values(cache, "u", "v", "u") == [{"a": 1}, {}, {"a": 1}]
    clock_s[0] = 30
    assert values(cache, "u") == [{"a": 1}]
    assert store.reads == [["u", "v"]]
    store.stored["u"] = [stated("u", START_MS, a=2)]
    clock_s[0] = 30.1
    assert values(cache, "u", "w") == [{"a": 2}, {}]
    assert store.reads == [["u", "v"], ["u", "w"]]


def test_full_cache_is_cleared() -> None:
    store = Store(stated("u", START_MS, a=1))
    cache = CachedAttributes(store, max_users=2)
    assert values(cache, "u") == [{"a": 1}]
    assert values(cache, "u", "v", "w") == [{"a": 1}, {}, {}]
    assert store.reads == [["u"], ["u", "v", "w"]]
    assert values(cache, "x") == [{}]
    assert store.reads[2:] == [["x"]]


class Group:
    """A metric group that names its counters as Flink's REST interface does."""

    def __init__(self, values: dict[str, float], path: str):
        self._values, self._path = values, path

    def add_group(self, name: str, extra: str | None = None) -> Self:
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


def test_latencies_of_all_operators_are_in_buckets_and_a_negative_one_is_zero() -> None:
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
