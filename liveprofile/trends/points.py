"""The counts of a series as points in time, with the expected range of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from liveprofile.trends.counts import SPANS_MS
from liveprofile.trends.expectation import WEEKS, expected_range
from liveprofile.units import DAY_MS

Metric = Literal["events", "users", "amount"]
METRICS = ("events", "users", "amount")
# Before the first point: the residuals of WEEKS weeks, each with WEEKS weeks before it.
HISTORY_MS = 2 * WEEKS * 7 * DAY_MS


class StoredCount(NamedTuple):
    """The counts of a series in one hour or day."""

    start_ms: int
    events: int
    amount: float
    users: int


class Point(NamedTuple):
    """An hour or day. `expected`, `low` and `high` are None with too few earlier weeks."""

    start_ms: int
    value: float
    expected: float | None
    low: float | None
    high: float | None
    outside: bool

    @property
    def excess(self) -> float:
        """How far the value lies outside the range, in half widths of the range."""
        if not self.outside or self.expected is None or self.high is None:
            return 0.0
        return abs(self.value - self.expected) / max(self.high - self.expected, 1e-9)


def series_values(
    counts: Sequence[StoredCount], span: str, metric: Metric, first_ms: int, end_ms: int
) -> np.ndarray:
    """(N,) the values from first_ms to before end_ms, which are starts; 0 without events."""
    span_ms = SPANS_MS[span]
    values = np.zeros(max(0, (end_ms - first_ms) // span_ms))
    for count in counts:
        if first_ms <= count.start_ms < end_ms:
            values[(count.start_ms - first_ms) // span_ms] = getattr(count, metric)
    return values


def hours_by_day(
    counts: Sequence[StoredCount], metric: Metric, complete_until_ms: int
) -> tuple[np.ndarray, int]:
    """(D, 24) the hours of all complete days, in UTC, and the start of the day after them.

    counts: by hour, ascending. The first day is the one after the first event: the shop may have
    opened in the middle of the day before.
    """
    end_ms = complete_until_ms // DAY_MS * DAY_MS
    if not counts:
        return np.zeros((0, 24)), end_ms
    first_ms = -(-counts[0].start_ms // DAY_MS) * DAY_MS
    return series_values(counts, "hour", metric, first_ms, end_ms).reshape(-1, 24), end_ms


def unit_of(counts: Sequence[StoredCount], metric: Metric) -> float:
    """What one event adds to the metric."""
    if metric != "amount":
        return 1.0
    events = sum(count.events for count in counts)
    return max(sum(count.amount for count in counts) / max(events, 1), 1e-9)


def points(
    counts: Sequence[StoredCount], span: str, metric: Metric, since_ms: int, complete_until_ms: int
) -> list[Point]:
    """Returns the complete hours or days from `since_ms` on.

    counts: of the time before, too (HISTORY_MS); ascending. The first one is the first event of the
    series, or older than all that counts.
    """
    if not counts:
        return []
    span_ms = SPANS_MS[span]
    first_ms, end_ms = counts[0].start_ms, complete_until_ms // span_ms * span_ms
    values = series_values(counts, span, metric, first_ms, end_ms)
    if not len(values):
        return []
    found = expected_range(values, 7 * DAY_MS // span_ms, unit_of(counts, metric))
    outside = found.is_outside(values)
    begin = max(0, -(-(since_ms - first_ms) // span_ms))
    return [
        Point(
            first_ms + place * span_ms,
            float(values[place]),
            *(None if np.isnan(each[place]) else float(each[place]) for each in found),
            bool(outside[place]),
        )
        for place in range(begin, len(values))
    ]
