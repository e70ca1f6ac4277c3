"""The reference against values computed by hand, and its own laws over generated streams."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings

from tests.reference.history import TOKEN_CHARS, double_text, token_text, window_tokens
from tests.reference.profile import Result, digest, run_reference
from tests.reference.rules import flag_id
from tests.reference.units import DAY_MS, HOUR_MS
from tests.reference.validation import REASONS, ValidEvent, validate
from tests.reference.windows import Record
from tests.support.seeded_streams import with_faults
from tests.support.streams import RECORD_MS, START_MS, behaviour_stream

LIMITS = SimpleNamespace(payload_chars=65_536, max_clock_skew_ms=600_000)
WINDOW_MS = 300_000
SETTINGS = SimpleNamespace(
    limits=LIMITS,
    window=SimpleNamespace(
        length_ms=WINDOW_MS, out_of_orderness_ms=30_000, stagger_ms=0, history=8
    ),
    state=SimpleNamespace(decay_days=30.0),
)
DAILY = SimpleNamespace(
    limits=LIMITS,
    window=SimpleNamespace(length_ms=DAY_MS, out_of_orderness_ms=30_000, stagger_ms=0, history=2),
    state=SimpleNamespace(decay_days=30.0),
)
MIDNIGHT_MS = 1_700_006_400_000  # Wednesday 2023-11-15 00:00 UTC
FREQUENCY = {
    "id": "purchase_frequency",
    "reason": "PURCHASE_FREQUENCY_CHANGE",
    "scope": "window",
    "when": "purchase_count_z >= threshold and purchase_windows >= 2 and purchases >= 3",
    "value": "purchase_count_z",
    "threshold": 4.0,
    "cool_down_hours": 72,
}


def event(**fields: Any) -> dict[str, Any]:
    return {"event_id": "e", "user_id": "u", "event_type": "view", "event_time": START_MS} | fields


def checked(**fields: Any) -> ValidEvent:
    return validate(json.dumps(event(**fields)).encode(), RECORD_MS, LIMITS)


def records(*events: dict[str, Any], partition: int = 0) -> list[Record]:
    return [
        Record(partition, offset, RECORD_MS, None, json.dumps(fields).encode())
        for offset, fields in enumerate(events)
    ]


def days(*of_each_day: list[dict[str, Any]]) -> list[Record]:
    """The events of the user's days, each at the day's first millisecond unless it has `ms`."""
    events = []
    for day, fields_of_day in enumerate(of_each_day):
        for number, fields in enumerate(fields_of_day):
            at_ms = MIDNIGHT_MS + day * DAY_MS + fields.get("ms", 0)
            events.append(event(event_id=f"{day}-{number}", event_time=at_ms) | fields)
    return records(*events)


def buy(amount: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"event_type": "purchase", "amount": amount} | fields


# --- where records go -------------------------------------------------------------------------


def test_late_is_what_belongs_to_a_closed_window() -> None:
    last_ms = START_MS + WINDOW_MS - 1
    found = run_reference(
        records(
            event(event_id="a", event_time=START_MS),
            event(event_id="b", event_time=last_ms + 29_999),
            event(event_id="c", event_time=START_MS),  # behind the watermark, its window open
            event(event_id="d", event_time=last_ms + 30_000),
            event(event_id="e", event_time=last_ms),
            event(event_id="f", event_time=last_ms + 1),
            event(event_id="e", event_time=last_ms + 1),  # a copy of a late one is no second chance
        ),
        SETTINGS,
    )
    assert found.used == {(0, 0), (0, 1), (0, 2), (0, 3), (0, 5)}
    assert found.late == {(0, 4)} and found.duplicates == {(0, 6)}
    assert found.watermark_ms == last_ms
    assert set(found.closed()) == {("u", last_ms + 1)}


def test_copies_move_time_and_bad_times_do_not() -> None:
    last_ms = START_MS + WINDOW_MS - 1
    found = run_reference(
        records(
            event(event_id="a"),
            event(event_id="a", event_time=last_ms + 30_000),
            event(event_id="b"),
            event(event_id="c", event_time="never"),
            event(event_id="c", event_time=last_ms + 1),
        ),
        SETTINGS,
    )
    assert found.used == {(0, 0), (0, 4)} and found.late == {(0, 2)}
    assert found.duplicates == {(0, 1)} and found.rejected == {(0, 3): ("BAD_TIME", "")}


def test_the_slowest_partition_holds_back_time() -> None:
    closing_ms = START_MS + WINDOW_MS + 30_000 - 1
    fast = records(event(event_id="a"), event(event_id="b", event_time=START_MS + HOUR_MS))
    slow = records(event(event_id="c", event_time=closing_ms), partition=1)
    behind = [fast[0]._replace(partition=2, value=json.dumps(event(event_id="d")).encode())]
    assert run_reference(fast[:1] + slow + fast[1:] + behind, SETTINGS).late == {(2, 0)}
    assert run_reference(fast[:1] + slow + behind + fast[1:], SETTINGS).late == set()


def test_a_rejected_record_moves_time_if_its_time_is_good() -> None:
    ahead_ms = START_MS + WINDOW_MS + 30_000
    for fault, late in (
        ({"event_type": "buy"}, {(0, 2)}),
        ({"event_id": ""}, {(0, 2)}),
        ({"price": -1}, {(0, 2)}),
        ({"event_time": str(ahead_ms) + "x"}, set()),
        ({"event_time": 4_070_908_800_000}, set()),
    ):
        bad = event(event_id="b", event_time=ahead_ms) | fault
        found = run_reference(records(event(event_id="a"), bad, event(event_id="c")), SETTINGS)
        assert set(found.rejected) == {(0, 1)} and found.late == late


@pytest.mark.parametrize("behind", ["x", "{}", "]", "}", ',"a":1', ",1", "\x00", "\x1d", "\x1f"])
def test_an_event_with_text_behind_it_claims_no_event_id(behind: str) -> None:
    stream = records(event(event_id="a"), event(event_id="a"), event(event_id="a"))
    stream[0] = stream[0]._replace(value=stream[0].value + b" " + behind.encode())
    found = run_reference(stream, SETTINGS)
    assert found.rejected == {(0, 0): ("NOT_JSON", "")}
    assert found.used == {(0, 1)} and found.duplicates == {(0, 2)}
    # Its time can be read, so it counts.
    assert (
        found.watermark_ms == run_reference(stream[:1], SETTINGS).watermark_ms == START_MS - 30_000
    )


def test_lateness_may_be_given() -> None:
    found = run_reference(
        records(event(event_id="a"), event(event_id="b")), SETTINGS, late={(0, 1)}
    )
    assert (found.used, found.late) == ({(0, 0)}, {(0, 1)})
    assert next(iter(found.profiles.values())).events == 1


@settings(max_examples=60, deadline=None)
@given(behaviour_stream())
def test_every_record_goes_exactly_one_way(stream: list[Record]) -> None:
    found = run_reference(stream, SETTINGS)
    ways = [set(found.rejected), found.heartbeats, found.duplicates, found.late, found.used]
    assert sum(map(len, ways)) == len(stream) == len(set().union(*ways))
    assert sum(profile.events for profile in found.profiles.values()) == len(found.used)
    assert found.closed() == found.profiles
    for (user_id, end_ms), profile in found.profiles.items():
        assert (profile.user_id, profile.window_end_ms) == (user_id, end_ms)
        assert profile.events == sum(profile.counts.values()) == len(profile.digests)
        for hours, weekdays in (profile.activity_after,):
            assert math.isclose(sum(hours), 1) and math.isclose(sum(weekdays), 1)
        for shares in (profile.affinity_before, profile.affinity_after):
            assert len(shares) <= 10 and sum(share for _, share in shares) <= 1 + 1e-9


def test_injected_faults_are_found_for_what_they_are() -> None:
    originals = [
        event(event_id=f"e{number}", user_id=f"u{number % 7}", event_time=START_MS + number * 1_000)
        for number in range(5_000)
    ]
    stream = with_faults(originals, seed=3)
    topic = [Record(0, index, RECORD_MS, *message) for index, message in enumerate(stream.messages)]
    found = run_reference(topic, SETTINGS)
    assert stream == with_faults(originals, seed=3) != with_faults(originals, seed=4)
    assert found.duplicates == {(0, index) for index in stream.duplicates}
    assert found.late == {(0, index) for index in stream.late}
    assert {(position[1], fault.reason) for position, fault in found.rejected.items()} == {
        (index, reason) for reason, indexes in stream.broken.items() for index in indexes
    }
    assert set(stream.broken) == set(REASONS)
    assert len(found.used) == 5_000 and 100 < stream.injected < 200


# --- profiles ---------------------------------------------------------------------------------


def profiles(found: Result) -> list[Any]:
    return [found.profiles[key] for key in sorted(found.profiles, key=lambda key: key[1])]


def test_decayed_baselines() -> None:
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


def test_windows_without_purchases_do_not_pull_the_means_down() -> None:
    last = profiles(run_reference(days([buy(10), buy(20)], [{}], [{}]), DAILY))[-1]
    assert last.after["purchase_count_mean"] == pytest.approx(2)
    assert last.after["purchase_amount_mean"] == pytest.approx(30)
    assert last.after["windows"] == 3 and last.after["purchase_windows"] == 1


def test_activity_by_hour_and_weekday() -> None:
    found = profiles(run_reference(days([{}, {"ms": 13 * HOUR_MS}], [{}]), DAILY))
    assert found[0].activity_before == ([0.0] * 24, [0.0] * 7)
    weight = math.exp(-1 / 30)
    hours, weekdays = found[1].activity_after
    assert hours[13] == pytest.approx(weight / (2 * weight + 1))
    assert weekdays[2] == pytest.approx(2 * weight / (2 * weight + 1))  # Wednesday
    assert weekdays[3] == pytest.approx(1 / (2 * weight + 1))


def test_affinity_and_what_moved() -> None:
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
    # History is two windows: on the last day the first day is forgotten.
    assert found[3].affinity_before == [
        ("c", pytest.approx(1 / (1 + day))), ("b", pytest.approx(day / (1 + day)))
    ]  # fmt: skip
    assert [name for name, _, _ in found[3].moved_categories] == ["b", "c"]


def test_window_counts_and_order() -> None:
    profile, = profiles(
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
    )  # fmt: skip
    assert profile.counts == {"view": 3, "return": 1, "purchase": 1}
    assert (profile.items, profile.categories, profile.sessions, profile.devices) == (2, 1, 1, 1)
    assert (profile.amount, profile.return_amount) == (3, 7.5)
    assert profile.digests == [digest(event_id) for event_id in ("0-3", "0-4", "z", "a", "b")]


def test_segments() -> None:
    bought = [[buy(150)] for _ in range(10)]
    assert profiles(run_reference(days(*bought[:3]), DAILY))[-1].segments == {"new", "big_spender"}
    assert profiles(run_reference(days(*bought), DAILY))[-1].segments == {"loyal", "big_spender"}
    away = days(*bought[:3], *[[]] * 30, [{}])
    assert profiles(run_reference(away, DAILY))[-1].segments == {"lapsing", "big_spender"}
    browsing = days([{}] * 20)
    assert profiles(run_reference(browsing, DAILY))[-1].segments == {"new", "browser"}
    given = {"event_type": "coupon"}
    coupon = days([buy(coupon_id="C")], [{"coupon_id": "C"}], [{}], [{}], [given])
    assert ["coupon_user" in profile.segments for profile in profiles(run_reference(coupon, DAILY))] == [
        True, False, False, False, True
    ]  # fmt: skip


def test_history_keeps_the_last_characters_of_a_window() -> None:
    arrived = [checked(event_id=str(number), item_id="i" * 78) for number in range(60)]
    size = len(token_text(window_tokens(arrived[:1])[0])) + 1
    assert size == 100
    # 40 tokens and their 39 separators fit whole; of 41 the first one is cut into.
    assert len(window_tokens(arrived[:40])) == 40
    assert len(window_tokens(arrived[:41])) == 40
    assert window_tokens(arrived) == window_tokens(arrived[-40:])


def test_history_of_the_longest_ids() -> None:
    longest = [
        checked(event_id=str(number), item_id="i" * 300, category_id="c" * 300)
        for number in range(10)
    ]
    size = len(token_text(window_tokens(longest[:1])[0])) + 1
    assert (longest[0].item, longest[0].category) == ("i" * 256, "c" * 256)
    assert len(window_tokens(longest)) == TOKEN_CHARS // size == 7


def test_history_is_cut_by_arrival_and_read_by_time() -> None:
    newest_first = [
        checked(event_id=str(number), item_id="i" * 78, event_time=START_MS - number)
        for number in range(60)
    ]
    times = [token.time_ms for token in window_tokens(newest_first)]
    assert times == [START_MS - number for number in range(59, 19, -1)]


def test_arrival_does_not_order_history() -> None:
    basket = [checked(event_id=str(number), item_id=number % 3) for number in range(6)]
    assert window_tokens(basket) == window_tokens(basket[::-1])
    assert [token.item for token in window_tokens(basket)] == ["0", "0", "1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (12.0, "12.0"), (-0.25, "-0.25"), (0.001, "0.001"), (9_999_999.5, "9999999.5"),
     (1e7, "1.0E7"), (1.25e18, "1.25E18"), (-2.5e-4, "-2.5E-4"), (123456789.25, "1.2345678925E8")],
)  # fmt: skip
def test_amounts_in_tokens(value: float, text: str) -> None:
    assert double_text(value) == text


# --- rules ------------------------------------------------------------------------------------


def test_a_flag_needs_a_change_and_waits_for_its_cool_down() -> None:
    one, many = [buy()], [buy()] * 9
    found = profiles(run_reference(days(one, one, many, many, one, many), DAILY, rules=[FREQUENCY]))
    assert [sorted(profile.active_rules) for profile in found[:3]] == [[], [], [FREQUENCY["id"]]]
    assert found[2].rule_values[FREQUENCY["id"]] == pytest.approx(8)
    assert [len(profile.flags) for profile in found] == [0, 0, 1, 0, 0, 0]
    flag = found[2].flags[0]
    assert flag.flag_id == flag_id("u", "purchase_frequency", found[2].window_end_ms)
    assert len(flag.flag_id) == 32 and (flag.value, flag.threshold) == (pytest.approx(8), 4.0)
    short = FREQUENCY | {"cool_down_hours": 24, "threshold": 0.1}
    # True again after a window where it was not, and the cool-down is over.
    again = profiles(run_reference(days(one, one, many, one, many), DAILY, rules=[short]))
    assert [len(profile.flags) for profile in again] == [0, 0, 1, 0, 1]


def test_rules_need_history_and_count() -> None:
    one, many = [buy()], [buy()] * 9
    assert not profiles(run_reference(days(one, many), DAILY, rules=[FREQUENCY]))[1].active_rules
    strict = FREQUENCY | {"when": FREQUENCY["when"].replace("purchases >= 3", "purchases >= 10")}
    assert not profiles(run_reference(days(one, one, many), DAILY, rules=[strict]))[2].active_rules


def test_amount_z_has_three_floors() -> None:
    rule = FREQUENCY | {"value": "purchase_amount_z"}
    for usual, now, value in ((100, 150, 50 / 10), (2, 5, 3 / 1)):
        stream = days([buy(usual)], [buy(usual)], [buy(now)])
        found = profiles(run_reference(stream, DAILY, rules=[rule]))[2]
        assert found.rule_values[rule["id"]] == pytest.approx(value)
    stream = days([buy(100)], [buy(300)], [buy(800)])
    found = profiles(run_reference(stream, DAILY, rules=[rule]))[2]
    mean, std = (found.before[f"purchase_amount_{name}"] for name in ("mean", "std"))
    assert std == pytest.approx(100, rel=0.01)
    assert found.rule_values[rule["id"]] == pytest.approx((800 - mean) / std)


def test_the_model_gives_surprise_and_churn() -> None:
    seen, known = [], []

    def score(
        history: list[Any],
        window: list[Any],
        before: dict[str, float],
        after: dict[str, float],
        brought: dict[tuple[str, int], list[float]],
    ) -> dict[str, float]:
        seen.append((len(history), [token.item for token in window]))
        known.append([(side["purchases"], side["history_events"]) for side in (before, after)])
        assert (before["recency_days"] == 400) == (before["purchases"] == 0)  # days for never
        return {
            "churn_before": 0.1, "churn_after": 0.6, "expected_spend_before": 1.0,
            "expected_spend_after": 2.0, "surprise": float(len(history)),
        }  # fmt: skip

    rule = FREQUENCY | {
        "id": "odd", "value": "surprise", "when": "surprise >= threshold and windows >= 2",
        "threshold": 2.0,
    }  # fmt: skip
    stream = days([buy(item_id="a", ms=1), buy(item_id="b")], [buy()], [buy()])
    found = profiles(run_reference(stream, DAILY, score=score, rules=[rule]))
    assert seen == [(0, ["b", "a"]), (2, [""]), (3, [""])]
    assert known == [[(0, 0), (2, 2)], [(2, 2), (3, 3)], [(3, 3), (4, 4)]]
    assert [profile.surprise for profile in found] == [0, 2, 3]
    assert [len(profile.flags) for profile in found] == [0, 0, 1]  # min_history: windows before
    assert all("churn_risk" in profile.segments for profile in found)
    assert (found[0].before["churn"], found[0].after["expected_spend"]) == (0.1, 2.0)
    assert not profiles(run_reference(stream, DAILY, rules=[rule]))[2].rule_values
