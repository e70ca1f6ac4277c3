"""The counts of a series as points in time, with the expected range of each, and the next day.

The range of an hour or day comes from the same hours of earlier weeks, by the modified z-score of
Iglewicz and Hoaglin (How to Detect and Handle Outliers, 1993), applied to seasonal residuals as in
Seasonal Hybrid ESD (Hochenbaum and others 2017):

- expected: the median of the same hour of the week in the weeks before;
- residual: (value - expected) / sqrt(expected), because the variance of counts grows with them;
- range: expected +- 3.5 x spread x sqrt(expected); the spread is 1.4826 x MAD of the residuals of
  the weeks before, which do not follow a single unusual week.

Where most hours have no events, the MAD is near 0. So the spread is at least the 95 % quantile of
the absolute residuals / 1.96, which is the same for a normal distribution.

The forecast of the next day is what is expected of it, with a narrower range.

Shapes: N consecutive hours or days.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from services.trends.count_store import SPANS_MS, StoredCount

WEEKS = 8
MIN_WEEKS = 3
LIMIT = 3.5
FORECAST_LIMIT = 1.5  # holds 80 % of busy hours, where others are quiet and narrow the spread
FIRST_DAYS = 28  # a forecast needs so many
_MAD_TO_SIGMA = 1.4826  # for a normal distribution
_QUANTILE, _QUANTILE_SIGMAS = 0.95, 1.96  # of absolute values of a normal distribution
Metric = Literal["events", "users", "amount"]
METRICS = ("events", "users", "amount")
# Before the first point: the residuals of WEEKS weeks, each with WEEKS weeks before it.
HISTORY_MS = 2 * WEEKS * 7 * DAY_MS


class Point(NamedTuple):
    """An hour or day. `expected`, `low` and `high` are None with too few earlier weeks."""

    start_ms: int
    value: float
    expected: float | None
    low: float | None
    high: float | None
    outside: bool


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
    begin = max(0, -(-(since_ms - first_ms) // span_ms))
    period, unit = 7 * DAY_MS // span_ms, unit_of(counts, metric)
    found = expected_range(values, period, unit, first=begin)
    outside = found.is_outside(values)
    return [
        Point(
            start_ms=first_ms + place * span_ms,
            value=float(values[place]),
            expected=_known(found.expected[place]),
            low=_known(found.low[place]),
            high=_known(found.high[place]),
            outside=bool(outside[place]),
        )
        for place in range(begin, len(values))
    ]


class ExpectedRange(NamedTuple):
    """(N,) each; NaN where fewer than MIN_WEEKS earlier weeks are known."""

    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def is_outside(self, values: np.ndarray) -> np.ndarray:
        """(N,) False where no range is known."""
        return (values < self.low) | (values > self.high)


def expected_range(
    values: np.ndarray, period: int, unit: float = 1.0, limit: float = LIMIT, first: int = 0
) -> ExpectedRange:
    """values: (N,) without gaps. period: steps of a week, 168 or 7.

    unit: what one event adds. limit: spreads from what is expected to the ends of the range.
    first: earlier places have no range, only what is expected of them.

    The spread is at least that of independent events, whose variance is unit x expected (a Poisson
    distribution for counts).
    """
    count = len(values)
    lagged = np.full((WEEKS, count), np.nan)
    for week in range(1, WEEKS + 1):
        lag = week * period
        if lag < count:
            lagged[week - 1, lag:] = values[:-lag]
    known = np.isfinite(lagged).sum(axis=0) >= MIN_WEEKS
    expected = np.full(count, np.nan)
    expected[known] = np.nanmedian(lagged[:, known], axis=0)
    root = np.sqrt(np.maximum(np.abs(expected), unit))
    residuals = (values - expected) / root
    spread = np.full(count, np.nan)
    spread[first:] = np.sqrt(unit)
    for place in np.flatnonzero(known[first:]) + first:
        before = residuals[max(0, place - WEEKS * period) : place]
        before = before[np.isfinite(before)]
        if len(before) >= period:
            mad = np.median(np.abs(before - np.median(before)))
            tail = np.quantile(np.abs(before), _QUANTILE) / _QUANTILE_SIGMAS
            spread[place] = max(spread[place], _MAD_TO_SIGMA * mad, tail)
    margin = limit * spread * root
    lowest = 0.0 if values.min(initial=0.0) >= 0 else -np.inf
    return ExpectedRange(expected, np.maximum(expected - margin, lowest), expected + margin)


class DayForecast(NamedTuple):
    """The forecast of one day, by hour and as a whole, each with an 80 % interval."""

    hours: list[float]  # 24
    low: list[float]
    high: list[float]
    total: float
    total_low: float
    total_high: float


def forecast_next_day(values: np.ndarray, unit: float = 1.0) -> DayForecast | None:
    """Forecasts the day after the last; None with fewer than FIRST_DAYS days.

    values: (D, 24) from midnight on; days follow each other. unit: what one event adds.
    """
    if len(values) < FIRST_DAYS:
        return None
    values = values[-HISTORY_MS // DAY_MS :]
    hours = _expected_next(values.ravel(), 24, 7 * 24, unit)
    day = _expected_next(values.sum(axis=1), 1, 7, unit)
    return DayForecast(
        hours=hours.expected.tolist(),
        low=hours.low.tolist(),
        high=hours.high.tolist(),
        total=float(day.expected[0]),
        total_low=float(day.low[0]),
        total_high=float(day.high[0]),
    )


def _expected_next(known: np.ndarray, steps: int, period: int, unit: float) -> ExpectedRange:
    """(steps,) each: what is expected after the known values."""
    # The values to forecast are not known, and change nothing.
    values = np.append(known, np.zeros(steps))
    found = expected_range(values, period, unit, FORECAST_LIMIT, first=len(known))
    return ExpectedRange(found.expected[-steps:], found.low[-steps:], found.high[-steps:])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
