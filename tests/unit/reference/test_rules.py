"""Rules and flags of windows in the reference, against values computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reference.profile import run_reference
from tests.reference.rules import flag_id
from tests.unit.reference.examples import (
    DAILY,
    buy,
    days,
    profiles,
)

FREQUENCY = {
    "id": "purchase_frequency",
    "reason": "PURCHASE_FREQUENCY_CHANGE",
    "scope": "window",
    "when": "purchase_count_z >= threshold and purchase_windows >= 2 and purchases >= 3",
    "value": "purchase_count_z",
    "threshold": 4.0,
    "cool_down_hours": 72,
}


def test_flag_needs_a_change_and_an_ended_cool_down() -> None:
    one, many = [buy()], [buy()] * 9
    found = profiles(run_reference(days(one, one, many, many, one, many), DAILY, rules=[FREQUENCY]))
    assert [sorted(profile.active_rules) for profile in found[:3]] == [[], [], [FREQUENCY["id"]]]
    assert found[2].rule_values[FREQUENCY["id"]] == pytest.approx(8)
    assert [len(profile.flags) for profile in found] == [0, 0, 1, 0, 0, 0]
    flag = found[2].flags[0]
    assert flag.flag_id == flag_id("u", "purchase_frequency", found[2].window_end_ms)
    assert len(flag.flag_id) == 32 and (flag.value, flag.threshold) == (pytest.approx(8), 4.0)
    short = FREQUENCY | {"cool_down_hours": 24, "threshold": 0.1}
    # True again after a window where it was false, and the cool-down is over.
    again = profiles(run_reference(days(one, one, many, one, many), DAILY, rules=[short]))
    assert [len(profile.flags) for profile in again] == [0, 0, 1, 0, 1]


def test_rule_needs_history_and_count() -> None:
    one, many = [buy()], [buy()] * 9
    assert not profiles(run_reference(days(one, many), DAILY, rules=[FREQUENCY]))[1].active_rules
    strict = FREQUENCY | {"when": FREQUENCY["when"].replace("purchases >= 3", "purchases >= 10")}
    assert not profiles(run_reference(days(one, one, many), DAILY, rules=[strict]))[2].active_rules


def test_amount_z_score_has_two_floors_for_the_deviation() -> None:
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


def test_scores_of_the_model_reach_profile_and_rules() -> None:
    lengths, numbers, memories = [], [], []

    def score(
        history: list[Any],
        window: list[Any],
        before: dict[str, float],
        after: dict[str, float],
        vectors: dict[tuple[str, int], list[float]],
        memory: str,
        window_days: float,
    ) -> dict[str, float]:
        lengths.append((len(history), [token.item for token in window]))
        memories.append(memory)
        numbers.append([(side["purchases"], side["history_events"]) for side in (before, after)])
        # 400 days stand for a user who never purchased.
        assert (before["recency_days"] == 400) == (before["purchases"] == 0)
        return {
            "churn_before": 0.1,
            "churn_after": 0.6,
            "expected_spend_before": 1.0,
            "expected_spend_after": 2.0,
            "surprise": float(len(history)),
        }

    rule = FREQUENCY | {
        "id": "odd",
        "value": "surprise",
        "when": "surprise >= threshold and windows >= 2",
        "threshold": 2.0,
    }
    stream = days([buy(item_id="a", ms=1), buy(item_id="b")], [buy()], [buy()])
    found = profiles(run_reference(stream, DAILY, score=score, rules=[rule]))
    assert lengths == [(0, ["b", "a"]), (2, [""]), (3, [""])]
    assert numbers == [[(0, 0), (2, 2)], [(2, 2), (3, 3)], [(3, 3), (4, 4)]]
    assert [text.count("#") for text in memories] == [1, 2, 3]
    assert [profile.surprise for profile in found] == [0, 2, 3]
    assert [len(profile.flags) for profile in found] == [0, 0, 1]  # min_history: windows before
    assert all("churn_risk" in profile.segments for profile in found)
    assert (found[0].before["churn"], found[0].after["expected_spend"]) == (0.1, 2.0)
    assert not profiles(run_reference(stream, DAILY, rules=[rule]))[2].rule_values
