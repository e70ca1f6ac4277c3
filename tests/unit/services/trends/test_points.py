"""The expected range: what falls outside, and how often normal hours do."""

import numpy as np
import pytest

from liveprofile.units import DAY_MS, HOUR_MS
from services.trends.count_store import EXACT_USERS, distinct_users, smallest, user_hash
from services.trends.points import (
    FIRST_DAYS,
    StoredCount,
    expected_range,
    forecast_next_day,
    hours_by_day,
    points,
)

WEEK = 168
START_MS = 1_699_833_600_000  # Monday, 2023-11-13


def seasonal(weeks: int, mean: float, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Counts whose mean follows the hour of the week; spread > 1: more variable than Poisson."""
    rng = np.random.default_rng(seed)
    hour = np.arange(weeks * WEEK)
    level = mean * (1 + 0.8 * np.sin(2 * np.pi * hour / 24)) * np.where(hour % WEEK < 120, 1.2, 0.5)
    if spread > 1:
        shape = level / (spread**2 - 1)
        level = rng.gamma(np.maximum(shape, 1e-9), spread**2 - 1)
    return rng.poisson(level).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "spread"), [(0.2, 1.0), (3, 3.0), (2_000, 3.0)])
def test_few_normal_hours_fall_outside(mean: float, spread: float) -> None:
    values = seasonal(40, mean, 1, spread)
    outside = expected_range(values, WEEK).is_outside(values)[16 * WEEK :]
    assert outside.mean() < 0.02


@pytest.mark.parametrize(("factor", "mean"), [(0.0, 60), (3.0, 20)])
def test_unusual_hour_falls_outside(factor: float, mean: float) -> None:
    values = seasonal(20, mean)
    noon = 18 * WEEK + 30  # 06:00 on a Tuesday, the largest hour
    values[noon] = round(values[noon] * factor)
    found = expected_range(values, WEEK)
    assert found.is_outside(values)[noon]
    assert (values[noon] < found.low[noon]) == (factor < 1)


def stored(values: np.ndarray) -> list[StoredCount]:
    return [
        StoredCount(START_MS + hour * HOUR_MS, int(value), 9.5 * value, int(value))
        for hour, value in enumerate(values)
        if value
    ]


def test_hour_without_events_is_a_point_and_incomplete_hours_are_not() -> None:
    values = seasonal(20, 100)
    values[19 * WEEK + 5] = 0
    until_ms = START_MS + 19 * WEEK * HOUR_MS + 10 * HOUR_MS + 5
    found = points(stored(values), "hour", "events", START_MS + 19 * WEEK * HOUR_MS, until_ms)
    assert [point.start_ms for point in found] == [
        START_MS + (19 * WEEK + hour) * HOUR_MS for hour in range(10)
    ]
    assert (found[5].value, found[5].outside) == (0, True) and not found[4].outside


@pytest.mark.parametrize("mean", [5, 200])
def test_forecast_beats_naive_on_seasonal_counts_and_covers_80_percent(mean: float) -> None:
    values = seasonal(29, mean).reshape(-1, 24)[:200]
    found = [(forecast_next_day(values[:day]), values[day]) for day in range(80, 200)]
    hours = np.array([(each.hours, each.low, each.high, day) for each, day in found])
    forecast, low, high, actual = hours.transpose(1, 0, 2)
    naive = values[80 - 7 : 200 - 7]
    assert np.abs(forecast - actual).mean() < 0.85 * np.abs(naive - actual).mean()
    busy = forecast > 0.5
    assert 0.76 < ((actual >= low) & (actual <= high))[busy].mean() < 0.9
    totals = [each.total_low <= day.sum() <= each.total_high for each, day in found]
    assert 0.7 < np.mean(totals) < 0.95


def test_forecast_needs_28_days_and_of_a_shop_without_events_is_zero() -> None:
    assert forecast_next_day(seasonal(4, 20).reshape(-1, 24)[: FIRST_DAYS - 1]) is None
    assert forecast_next_day(np.zeros((0, 24))) is None
    found = forecast_next_day(np.zeros((FIRST_DAYS, 24)))
    assert found.total == 0


def test_hours_begin_on_the_first_whole_day_and_end_with_the_last_complete_one() -> None:
    counts = [StoredCount(START_MS + hour * HOUR_MS, hour, 0, 0) for hour in (5, 24, 26, 48, 75)]
    values, next_ms = hours_by_day(counts, "events", START_MS + 3 * DAY_MS + 5 * HOUR_MS)
    assert next_ms == START_MS + 3 * DAY_MS
    assert values.shape == (2, 24)
    assert (values[0, 0], values[0, 2], values[1, 0], values.sum()) == (24, 26, 48, 98)


def hashes(first: int, end: int) -> np.ndarray:
    return np.array([user_hash(f"user-{number}") for number in range(first, end)], np.uint64)


@pytest.mark.parametrize("users", [0, 1, EXACT_USERS - 1, EXACT_USERS])
def test_count_is_exact_up_to_the_limit(users: int) -> None:
    kept = smallest(np.tile(hashes(0, users), 2), EXACT_USERS)
    assert distinct_users(kept, EXACT_USERS) == users


@pytest.mark.parametrize(("exact", "error"), [(EXACT_USERS, 0.044), (4_096, 0.016)])
def test_estimate_beyond_the_limit_has_the_published_error(exact: int, error: float) -> None:
    rng = np.random.default_rng(3)
    estimates = [
        distinct_users(smallest(rng.integers(0, 2**64, 20_000, np.uint64), exact), exact)
        for _ in range(60)
    ]
    assert abs(np.mean(estimates) / 20_000 - 1) < 3 * error / 60**0.5
    assert 0.7 * error < np.std(estimates) / 20_000 < 1.3 * error
