"""The expected range: what falls outside, and how often normal hours do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.proportions import wilson_interval
from liveprofile.storage.queries import WindowChange
from liveprofile.trends.counts import EXACT_USERS, Count, distinct_users, smallest, user_hash
from liveprofile.trends.forecast import (
    FIRST_DAYS,
    METHODS,
    NAIVE,
    SCORED_DAYS,
    backtest,
    forecast_next_day,
)
from liveprofile.trends.funnel import (
    STEPS,
    WEEK_MS,
    UserWindow,
    funnel,
    retention,
    steps_reached,
    user_windows,
    week_start_ms,
)
from liveprofile.trends.points import MIN_WEEKS, StoredCount, expected_range, hours_by_day, points
from liveprofile.trends.update import RecentEvents
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


@pytest.mark.parametrize(("factor", "mean"), [(0.0, 60), (3.0, 20)])
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


START_MS_FORECAST = 1_699_833_600_000  # midnight
FIRST = FIRST_DAYS + SCORED_DAYS


def seasonal_of_forecast(days: int, mean: float, seed: int = 0) -> np.ndarray:
    hour = np.arange(24)
    by_hour = np.where((hour >= 7) & (hour < 22), 1 + np.sin(np.pi * (hour - 7) / 15), 0)
    by_weekday = np.array([1, 1, 1.2, 1, 1.4, 0, 0.6])
    level = mean * by_weekday[np.arange(days) % 7][:, None] * by_hour
    return np.random.default_rng(seed).poisson(level).astype(float)


def test_forecast_of_a_day_does_not_read_it_or_later_ones() -> None:
    values = seasonal_of_forecast(120, 20)
    changed = values.copy()
    changed[100:] = 1_000
    before, after = backtest(values), backtest(changed)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[:101], other[:101], equal_nan=True)


@pytest.mark.parametrize("mean", [5, 200])
def test_smoothing_beats_naive_on_seasonal_counts_and_covers_80_percent(mean: float) -> None:
    values = seasonal_of_forecast(400, mean)
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
    values = seasonal_of_forecast(121, 20)
    result, found = backtest(values), forecast_next_day(values[:120])
    assert np.array_equal(found.hours, result.forecast[120])
    assert np.array_equal(found.high, result.high[120])
    assert (found.low <= found.hours).all() and (found.hours <= found.high).all()
    assert found.total_low < found.total < found.total_high
    assert found.mae < found.naive_mae


def test_too_few_days_give_no_forecast() -> None:
    assert forecast_next_day(seasonal_of_forecast(FIRST - 1, 20)) is None
    assert forecast_next_day(np.zeros((0, 24))) is None
    assert forecast_next_day(seasonal_of_forecast(FIRST, 20)) is not None


def test_shop_without_events_is_forecast_as_nothing() -> None:
    found = forecast_next_day(np.zeros((100, 24)))
    assert found.total == found.total_high == 0


def test_hours_begin_on_the_first_whole_day_and_end_with_the_last_complete_one() -> None:
    counts = [
        StoredCount(START_MS_FORECAST + hour * HOUR_MS, hour, 0, 0) for hour in (5, 24, 26, 48, 75)
    ]
    values, next_ms = hours_by_day(counts, "events", START_MS_FORECAST + 3 * DAY_MS + 5 * HOUR_MS)
    assert next_ms == START_MS_FORECAST + 3 * DAY_MS
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


def test_sum_of_counts_has_the_users_of_counting_all_at_once() -> None:
    one, other, both = (
        Count(1, 1.5, smallest(hashes(*span), EXACT_USERS))
        for span in ((0, 3_000), (2_000, 5_000), (0, 5_000))
    )
    events, amount, users = one.plus(other, EXACT_USERS)
    assert (events, amount) == (2, 3.0) and np.array_equal(users, both.user_hashes)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=200),
    st.integers(1, 20),
    st.integers(1, 10),
)
def test_event_is_first_unless_seen_within_the_time(steps, ttl_ms: int, batch: int) -> None:
    recent, last, now_ms, records = RecentEvents(ttl_ms), {}, 0, []
    for key, gap_ms in steps:
        now_ms += gap_ms
        expected = key not in last or now_ms - last[key] > ttl_ms
        last[key] = now_ms
        records.append((key, now_ms, expected))
    actual = []
    for start in range(0, len(records), batch):
        keys, times_ms, _ = zip(*records[start : start + batch], strict=True)
        events = {"digest": np.array(keys, np.uint64), "record_ms": np.array(times_ms)}
        actual += recent.add(pd.DataFrame(events)).tolist()
    assert actual == [expected for _, _, expected in records]
    assert len(recent) == sum(time_ms >= now_ms - ttl_ms for _, time_ms, _ in records)


MONDAY_MS = 1_699_833_600_000  # 2023-11-13


def window(
    hour: int, *types: str, categories: tuple[str, ...] = (), first: bool = False
) -> UserWindow:
    return UserWindow(MONDAY_MS + hour * HOUR_MS, dict.fromkeys(types, 1), categories, first)


def reached(*windows: UserWindow, within_ms: int = DAY_MS) -> int:
    return steps_reached(windows, STEPS, within_ms, MONDAY_MS, MONDAY_MS + 10 * DAY_MS)


@pytest.mark.parametrize(
    ("windows", "count"),
    [
        ([], 0),
        ([window(0, "cart", "purchase")], 0),
        ([window(0, "view")], 1),
        ([window(0, "view"), window(1, "cart")], 2),
        ([window(0, "view"), window(1, "purchase")], 1),
        ([window(0, "view", "cart", "purchase")], 3),
        ([window(0, "cart"), window(1, "view"), window(2, "purchase")], 1),
        ([window(0, "view"), window(1, "cart"), window(24, "purchase")], 3),
        ([window(0, "view"), window(1, "cart"), window(25, "purchase")], 2),
        ([window(0, "view"), window(20, "view", "cart"), window(40, "purchase")], 3),
        ([window(-1, "view"), window(1, "cart")], 0),
        ([window(240, "view")], 0),
    ],
)
def test_steps_count_in_order_and_within_the_time(windows: list[UserWindow], count: int) -> None:
    assert reached(*windows) == count


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sets(st.sampled_from(STEPS), min_size=1)), max_size=9)
)
def test_steps_reached_equals_trying_all_sequences(steps) -> None:
    windows = [window(hour, *types) for hour, types in sorted(steps, key=lambda step: step[0])]

    def tries(count: int) -> bool:
        for chosen in itertools.product(windows, repeat=count):
            times = [each.start_ms for each in chosen]
            ordered = times == sorted(times) and times[-1] - times[0] <= DAY_MS
            if ordered and all(each.counts.get(s) for each, s in zip(chosen, STEPS, strict=False)):
                return True
        return False

    assert reached(*windows) == max((n for n in (1, 2, 3) if tries(n)), default=0)


def of(groups: dict, name: str) -> list[int]:
    return [step.users for step in groups[name]]


USERS: Sequence[tuple[str, list[UserWindow]]] = [
    ("a", [window(0, "view", categories=("books",)), window(1, "cart", categories=("toys",)),
           window(2, "purchase", categories=("books", "toys"))]),
    ("b", [window(0, "view", categories=("books",)), window(3, "cart", categories=("books",))]),
    ("c", [window(5, "cart", categories=("toys",))]),
]  # fmt: skip


def test_funnel_by_segment_counts_a_user_in_each_segment() -> None:
    segments = {"a": ["segment loyal", "segment new"], "b": ["segment new"], "c": ["segment new"]}
    until_ms = MONDAY_MS + DAY_MS
    groups = funnel(USERS, STEPS, DAY_MS, MONDAY_MS, until_ms, segments.__getitem__)
    assert of(groups, "all") == of(groups, "segment new") == [2, 2, 1]
    assert of(groups, "segment loyal") == [1, 1, 1]
    assert list(groups) == ["all", "segment new", "segment loyal"]
    assert groups["all"][2].share == 0.5


def test_funnel_by_category_needs_all_steps_in_the_category() -> None:
    groups = funnel(USERS, STEPS, DAY_MS, MONDAY_MS, MONDAY_MS + DAY_MS)
    assert of(groups, "category books") == [2, 1, 0]
    assert "category toys" not in groups  # nobody viewed it


def test_interval_of_a_share_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.0, 0.1611), abs=5e-5)
    assert wilson_interval(0, 0) == (None, None, None)


def test_retention_counts_active_users_of_complete_weeks() -> None:
    users = [
        ("a", [window(1, "view", first=True), window(2 * 168 + 3, "purchase")]),
        ("b", [window(100, "purchase", first=True), window(168, "view")]),
        ("c", [window(169, "view", first=True), window(170, "view")]),
        ("older", [window(5, "view")]),
        ("new", [window(3 * 168 + 1, "view", first=True)]),
    ]
    until_ms = MONDAY_MS + 3 * WEEK_MS + DAY_MS
    assert retention(users, None, until_ms) == [
        (MONDAY_MS, 2, [2, 1, 1]),
        (MONDAY_MS + WEEK_MS, 1, [1, 0]),
    ]
    assert retention(users, "purchase", until_ms)[0].active == [1, 0, 1]


def test_weeks_begin_on_monday() -> None:
    assert week_start_ms(MONDAY_MS) == week_start_ms(MONDAY_MS + WEEK_MS - 1) == MONDAY_MS
    assert week_start_ms(MONDAY_MS - 1) == MONDAY_MS - WEEK_MS


def test_windows_of_a_user_are_read_oldest_first_with_their_categories() -> None:
    delta = {
        "before": {"windows": 0.0},
        "moved_categories": [["books", 0.2, 0.5], ["toys", 0.8, 0.5], ["food", 1.0, 1.0]],
        "window": {"counts": {"view": 2}},
    }
    changes = [
        WindowChange("a", 20, 30, 0.0, {"before": {"windows": 3.0}}),
        WindowChange("a", 10, 20, 0.0, delta),
        WindowChange("b", 0, 10, 0.0, delta),
    ]
    users = dict(user_windows(changes))
    assert users["a"] == [
        UserWindow(10, {"view": 2}, ("books", "food"), True),
        UserWindow(20, {}, (), False),
    ]
    assert len(users["b"]) == 1
