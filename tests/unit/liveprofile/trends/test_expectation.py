"""The expected range: what falls outside, and how often normal hours do."""

from __future__ import annotations

import numpy as np
import pytest

from liveprofile.trends.expectation import MIN_WEEKS, expected_range
from liveprofile.trends.points import StoredCount, points
from liveprofile.units import DAY_MS, HOUR_MS

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
@pytest.mark.parametrize("mean", [0.2, 3, 50, 2_000])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_few_normal_hours_fall_outside(mean: float, spread: float) -> None:
    values = seasonal(40, mean, 1, spread)
    outside = expected_range(values, WEEK).is_outside(values)[16 * WEEK :]
    assert outside.mean() < 0.02


@pytest.mark.parametrize(("factor", "mean"), [(0.0, 60), (3.0, 20), (2.0, 200)])
def test_unusual_hour_falls_outside(factor: float, mean: float) -> None:
    values = seasonal(20, mean)
    noon = 18 * WEEK + 30  # 06:00 on a Tuesday, the largest hour
    values[noon] = round(values[noon] * factor)
    found = expected_range(values, WEEK)
    assert found.is_outside(values)[noon]
    assert (values[noon] < found.low[noon]) == (factor < 1)


def test_one_unusual_week_does_not_change_what_is_expected() -> None:
    values = seasonal(20, 100)
    changed = values.copy()
    changed[15 * WEEK : 16 * WEEK] *= 10
    usual, after = (expected_range(each, WEEK).expected[17 * WEEK :] for each in (values, changed))
    assert np.abs(after / usual - 1).mean() < 0.05


def test_range_uses_earlier_hours_only() -> None:
    values = seasonal(20, 100)
    changed = values.copy()
    changed[15 * WEEK :] = 0
    for before, after in zip(
        expected_range(values, WEEK), expected_range(changed, WEEK), strict=True
    ):
        assert np.array_equal(before[: 15 * WEEK], after[: 15 * WEEK], equal_nan=True)


def test_nothing_is_expected_in_the_first_weeks() -> None:
    values = seasonal(MIN_WEEKS + 1, 100)
    found = expected_range(values, WEEK)
    assert np.isnan(found.low[: MIN_WEEKS * WEEK]).all()
    assert np.isfinite(found.low[MIN_WEEKS * WEEK :]).all()
    assert not found.is_outside(values)[: MIN_WEEKS * WEEK].any()


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
    assert (found[5].value, found[5].outside) == (0, True)
    assert found[5].excess > 1 > found[4].excess == 0


def test_amount_has_the_range_of_its_events() -> None:
    values = seasonal(20, 100)
    since_ms, until_ms = START_MS + 19 * WEEK * HOUR_MS, START_MS + 20 * WEEK * HOUR_MS
    events, amounts = (
        points(stored(values), "hour", metric, since_ms, until_ms)
        for metric in ("events", "amount")
    )
    for event, amount in zip(events, amounts, strict=True):
        assert amount.high == pytest.approx(9.5 * event.high, rel=0.01)


def test_days_have_a_season_of_a_week() -> None:
    days = [StoredCount(START_MS + day * DAY_MS, 5 + 50 * (day % 7 < 5), 0, 1) for day in range(84)]
    found = points(days, "day", "events", START_MS + 70 * DAY_MS, START_MS + 84 * DAY_MS)
    assert [point.expected for point in found[:7]] == [55, 55, 55, 55, 55, 5, 5]


def test_series_without_counts_has_no_points() -> None:
    assert points([], "hour", "events", 0, START_MS) == []
