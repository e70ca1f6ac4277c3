"""Profiles of the reference, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from tests.reference.profile import digest, run_reference
from tests.reference.units import DAY_MS, HOUR_MS
from tests.unit.reference.examples import (
    DAILY,
    buy,
    days,
    profiles,
)


def test_baselines_decay_over_days() -> None:
    stream = days([buy(10), buy(20)], [], [], [buy(60, ms=DAY_MS // 2)])
    first, second = profiles(run_reference(stream, DAILY))
    assert first.before["windows"] == 0 and first.before["recency_days"] is None
    assert first.before["purchase_count_mean"] == first.before["purchase_count_std"] == 0
    assert first.after["recency_days"] == 1.0
    assert (first.after["purchases_decayed"], first.after["amount_decayed"]) == (2, 30)
    # The second window starts two days after the first one's end.
    assert second.before["amount"] == 30 and second.before["recency_days"] == 3.0
    assert second.before["amount_decayed"] == pytest.approx(30 * math.exp(-2 / 30))
    weight = math.exp(-3 / 30)
    mean = (weight * 2 + 1) / (weight + 1)
    assert second.after["purchase_count_mean"] == pytest.approx(mean)
    assert second.after["purchase_count_std"] == pytest.approx(
        math.sqrt((weight * 4 + 1) / (weight + 1) - mean**2)
    )
    assert second.after["purchase_amount_mean"] == pytest.approx((weight * 30 + 60) / (weight + 1))
    assert second.after["recency_days"] == 0.5
    assert (second.after["windows"], second.after["purchase_windows"]) == (2, 2)


def test_windows_without_purchases_do_not_lower_the_means() -> None:
    last = profiles(run_reference(days([buy(10), buy(20)], [{}], [{}]), DAILY))[-1]
    assert last.after["purchase_count_mean"] == pytest.approx(2)
    assert last.after["purchase_amount_mean"] == pytest.approx(30)
    assert last.after["windows"] == 3 and last.after["purchase_windows"] == 1


def test_activity_shares_by_hour_and_weekday() -> None:
    found = profiles(run_reference(days([{}, {"ms": 13 * HOUR_MS}], [{}]), DAILY))
    assert found[0].activity_before == ([0.0] * 24, [0.0] * 7)
    weight = math.exp(-1 / 30)
    hours, weekdays = found[1].activity_after
    assert hours[13] == pytest.approx(weight / (2 * weight + 1))
    assert weekdays[2] == pytest.approx(2 * weight / (2 * weight + 1))  # Wednesday
    assert weekdays[3] == pytest.approx(1 / (2 * weight + 1))


def test_affinity_and_moved_categories() -> None:
    found = profiles(
        run_reference(
            days(
                [{"category_id": "a"}, {"category_id": "b"}, {"category_id": None}],
                [{"category_id": "b"}],
                [{"category_id": "c"}],
                [{"category_id": "c"}],
            ),
            DAILY,
        )
    )
    assert found[0].affinity_before == []
    assert found[0].affinity_after == [("a", 0.5), ("b", 0.5)]
    assert found[0].moved_categories == [("a", 0.0, 0.5), ("b", 0.0, 0.5)]
    day = math.exp(-1 / 30)
    assert found[1].affinity_after[0] == ("b", pytest.approx((day + 1) / (2 * day + 1)))
    # History has two windows: on the last day the first day is no longer in it.
    assert found[3].affinity_before == [
        ("c", pytest.approx(1 / (1 + day))),
        ("b", pytest.approx(day / (1 + day))),
    ]
    assert [name for name, _, _ in found[3].moved_categories] == ["b", "c"]


def test_window_counts_and_order_of_digests() -> None:
    (profile,) = profiles(
        run_reference(
            days(
                [
                    {"event_id": "b", "item_id": 1, "session_id": "s", "ms": 5},
                    {"event_id": "a", "item_id": "1", "session_id": "s", "ms": 5},
                    {"event_id": "z", "item_id": 2, "device_id": "d", "category_id": "c"},
                    {"event_type": "return", "amount": 7.5},
                    buy(3),
                ]
            ),
            DAILY,
        )
    )
    assert profile.counts == {"view": 3, "return": 1, "purchase": 1}
    assert (profile.items, profile.categories, profile.sessions, profile.devices) == (2, 1, 1, 1)
    assert (profile.amount, profile.return_amount) == (3, 7.5)
    assert profile.digests == [digest(event_id) for event_id in ("0-3", "0-4", "z", "a", "b")]


def test_segments_of_typical_users() -> None:
    bought = [[buy(150)] for _ in range(10)]
    assert profiles(run_reference(days(*bought[:3]), DAILY))[-1].segments == {"new", "big_spender"}
    assert profiles(run_reference(days(*bought), DAILY))[-1].segments == {"loyal", "big_spender"}
    away = days(*bought[:3], *[[]] * 30, [{}])
    assert profiles(run_reference(away, DAILY))[-1].segments == {"lapsing", "big_spender"}
    browsing = days([{}] * 20)
    assert profiles(run_reference(browsing, DAILY))[-1].segments == {"new", "browser"}
    coupon_event = {"event_type": "coupon"}
    coupon = days([buy(coupon_id="C")], [{"coupon_id": "C"}], [{}], [{}], [coupon_event])
    uses_coupons = [
        "coupon_user" in profile.segments for profile in profiles(run_reference(coupon, DAILY))
    ]
    assert uses_coupons == [True, False, False, False, True]
