"""The forecast: no look-ahead, better than naive on seasonal data, naive where naive is better."""

from __future__ import annotations

import numpy as np
import pytest

from liveprofile.trends.forecast import (
    FIRST_DAYS,
    METHODS,
    NAIVE,
    SCORED_DAYS,
    backtest,
    forecast_next_day,
)
from liveprofile.trends.points import StoredCount, hours_by_day
from liveprofile.units import DAY_MS, HOUR_MS

START_MS = 1_699_833_600_000  # midnight
FIRST = FIRST_DAYS + SCORED_DAYS


def seasonal(days: int, mean: float, seed: int = 0) -> np.ndarray:
    hour = np.arange(24)
    by_hour = np.where((hour >= 7) & (hour < 22), 1 + np.sin(np.pi * (hour - 7) / 15), 0)
    by_weekday = np.array([1, 1, 1.2, 1, 1.4, 0, 0.6])
    level = mean * by_weekday[np.arange(days) % 7][:, None] * by_hour
    return np.random.default_rng(seed).poisson(level).astype(float)


def test_forecast_of_a_day_does_not_read_it_or_later_ones() -> None:
    values = seasonal(120, 20)
    changed = values.copy()
    changed[100:] = 1_000
    before, after = backtest(values), backtest(changed)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[:101], other[:101], equal_nan=True)


@pytest.mark.parametrize("mean", [5, 200])
def test_smoothing_beats_naive_on_seasonal_counts_and_covers_80_percent(mean: float) -> None:
    values = seasonal(400, mean)
    result = backtest(values)
    forecast, actual = result.forecast[FIRST:], values[FIRST:]
    naive = np.abs(values[FIRST - 7 : -7] - actual).mean()
    assert np.abs(forecast - actual).mean() < 0.85 * naive
    busy = forecast > 0.5
    inside = (actual >= result.low[FIRST:]) & (actual <= result.high[FIRST:])
    assert 0.76 < inside[busy].mean() < 0.9  # whole numbers cover more
    total = actual.sum(axis=1)
    assert (
        0.74
        < np.mean((total >= result.total_low[FIRST:]) & (total <= result.total_high[FIRST:]))
        < 0.88
    )


def test_naive_is_used_where_it_is_better() -> None:
    # Each week the shop sells at other hours, but what it sold a week ago it sells again.
    values = np.zeros((140, 24))
    for week in range(20):
        values[7 * week : 7 * week + 7] = 50 * (np.arange(24) // 2 == week // 2 % 12)
    assert (backtest(values).method[FIRST:] == NAIVE).all()
    found = forecast_next_day(values)
    assert found.method == METHODS[NAIVE] == "seasonal naive"
    assert found.mae == found.naive_mae


def test_next_day_continues_the_backtest() -> None:
    values = seasonal(121, 20)
    result, found = backtest(values), forecast_next_day(values[:120])
    assert np.array_equal(found.hours, result.forecast[120])
    assert np.array_equal(found.high, result.high[120])
    assert (found.low <= found.hours).all() and (found.hours <= found.high).all()
    assert found.total_low < found.total < found.total_high
    assert found.mae < found.naive_mae


def test_too_few_days_give_no_forecast() -> None:
    assert forecast_next_day(seasonal(FIRST - 1, 20)) is None
    assert forecast_next_day(np.zeros((0, 24))) is None
    assert forecast_next_day(seasonal(FIRST, 20)) is not None


def test_shop_without_events_is_forecast_as_nothing() -> None:
    found = forecast_next_day(np.zeros((100, 24)))
    assert found.total == found.total_high == 0


def test_hours_begin_on_the_first_whole_day_and_end_with_the_last_complete_one() -> None:
    counts = [StoredCount(START_MS + hour * HOUR_MS, hour, 0, 0) for hour in (5, 24, 26, 48, 75)]
    values, next_ms = hours_by_day(counts, "events", START_MS + 3 * DAY_MS + 5 * HOUR_MS)
    assert next_ms == START_MS + 3 * DAY_MS
    assert values.shape == (2, 24)
    assert (values[0, 0], values[0, 2], values[1, 0], values.sum()) == (24, 26, 48, 98)
