"""Funnels and retention from windows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.proportions import wilson_interval
from liveprofile.storage.queries import WindowChange
from liveprofile.trends.funnel import STEPS, funnel, steps_reached
from liveprofile.trends.retention import WEEK_MS, retention, week_start_ms
from liveprofile.trends.user_windows import UserWindow, user_windows
from liveprofile.units import DAY_MS, HOUR_MS

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
