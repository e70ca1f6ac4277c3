"""Rules evaluated again over stored windows and events."""

from typing import Any

import numpy as np
import orjson
import pytest

from liveprofile.features.window_features import WINDOW_FEATURES
from liveprofile.rules.rules import Rule
from liveprofile.units import DAY_MS, HOUR_MS
from services.rule_backtest import (
    STORED_FEATURES,
    RaisedFlag,
    RuleReplay,
    StoredEvent,
    StoredWindow,
    as_json,
    blocks,
    compare,
    not_evaluable,
    outcome,
)
from tests.support.rows.rule_examples import SHIPPED_RULES, rule
from udfs.profile.inputs import FEATURES

START_MS = 1_511_654_400_000 // DAY_MS * DAY_MS


def event(hours: float, amount: float, user: str = "u", *active: str, score: float = 0.5) -> Any:
    time_ms = START_MS + round(hours * HOUR_MS)
    return StoredEvent(user, time_ms, f"e{hours:g}", "purchase", amount, score, set(active))


def replayed(rules: list[Rule], *events: StoredEvent, in_force: list[Rule] | None = None):
    replay = RuleReplay(rules, rules if in_force is None else in_force)
    for block in blocks(events):
        replay.add(block)
    hour = [
        (flag.user_id, (flag.time_ms - START_MS) / HOUR_MS, flag.rule_id) for flag in replay.flags()
    ]
    return sorted(hour), replay.skipped


def window(user: str, hours: int, delta: dict[str, Any], surprise: float = 1.0) -> StoredWindow:
    text = orjson.dumps(delta).decode()
    return StoredWindow(user, START_MS + hours * HOUR_MS, surprise, None, text)


def test_flag_is_raised_when_a_rule_becomes_true_outside_of_its_cool_down() -> None:
    amounts = {0: 5.0, 1: 6.0, 1.5: 1.0, 1.75: 7.0, 2: 1.0, 3: 9.0}
    events = [event(hours, amount) for hours, amount in amounts.items()]
    expected = [("u", 0, "many"), ("u", 3, "many")]  # at 1 it stayed true, at 1.75 it cooled down
    assert replayed([rule()], *events)[0] == expected
    assert replayed([rule()], *reversed(events))[0] == expected
    eager = rule(cool_down_hours=0)
    assert [hours for _, hours, _ in replayed([eager], *events)[0]] == [0, 1.75, 3]


def test_types_and_states_count() -> None:
    login = rule(types=["login"])
    assert replayed([login], event(0, 5.0))[0] == []
    assert replayed([rule(state="PAUSED")], event(0, 5.0)) == ([], {})
    replay = RuleReplay([rule(state="SHADOW")], [])
    [block] = blocks([event(0, 5.0)])
    replay.add(block)
    assert list(replay.flags()) == [RaisedFlag("u", START_MS, "many", False)]


def test_rule_over_features_that_are_not_stored_counts_as_the_job_found_it() -> None:
    known = rule(
        id="ring",
        when="device_users_1d >= threshold",
        value="device_users_1d",
        message="{value} users, usually {device_users_1d}",
    )
    events = [event(0, 1.0), event(1, 1.0, "u", "ring"), event(2, 1.0, "v", "other")]
    assert replayed([known], *events) == ([("u", 1, "ring")], {})
    edited = known.model_copy(update={"threshold": 9.0})
    found, skipped = replayed([edited], *events, in_force=[known])
    assert found == []
    assert skipped == {"ring": "reads device_users_1d, which is not stored with events"}
    paused = known.model_copy(update={"state": "PAUSED"})
    assert replayed([known], *events, in_force=[paused])[1].keys() == {"ring"}
    slower = known.model_copy(update={"cool_down_hours": 90.0, "severity": "high"})
    assert replayed([slower], *events, in_force=[known])[0] == [("u", 1, "ring")]


@pytest.mark.parametrize("each", SHIPPED_RULES.rules, ids=lambda each: each.id)
def test_every_shipped_rule_can_be_replayed_unchanged(each: Rule) -> None:
    assert not_evaluable(each, SHIPPED_RULES.rules) is None
    if each.scope == "window":
        assert (
            not_evaluable(each.model_copy(update={"threshold": 1.25}), SHIPPED_RULES.rules) is None
        )


def test_stored_windows_have_all_features_of_rules() -> None:
    before = {name: float(number) for number, name in enumerate(FEATURES, 1)}
    before |= {"recency_days": None}
    inside = {"events": 7, "counts": {"view": 4, "purchase": 3}, "amount": 120.5}
    [block] = blocks([window("a", 0, {"before": before, "window": inside}, surprise=2.5)])
    assert block.columns.keys() == WINDOW_FEATURES.keys() == STORED_FEATURES["window"]
    shown = {name: float(column[0]) for name, column in block.columns.items()}
    assert (shown["events"], shown["purchases"], shown["amount"]) == (7, 3, 120.5)
    assert shown["surprise"] == 2.5
    assert shown["purchases_before"] == before["purchases"]
    assert np.isnan(shown["recency_days"])
    mean, std = before["purchase_count_mean"], before["purchase_count_std"]
    assert shown["purchase_count_z"] == pytest.approx((3 - mean) / max(std, 1))


def test_outcome_counts_alerts_of_the_range_against_labels() -> None:
    flags = [
        RaisedFlag("early", START_MS - 1, "many", True),
        RaisedFlag("a", START_MS, "many", True),
        RaisedFlag("a", START_MS + DAY_MS, "other", True),
        RaisedFlag("b", START_MS + DAY_MS, "many", True),
        RaisedFlag("c", START_MS, "trial", False),
    ]
    labels = {
        ("a", START_MS): "fraud",
        ("b", START_MS + DAY_MS): "legitimate",
        ("b", START_MS): "fraud",
    }
    found = outcome(flags, START_MS, labels)
    assert found.alerts_by_day == {START_MS: 1, START_MS + DAY_MS: 2}
    assert found.alerts_by_rule == {"many": 2, "other": 1}
    assert (found.alerts, found.shadow_flags) == (3, 1)
    assert found.users == 2
    assert (found.frauds, found.labelled, found.precision) == (1, 2, 0.5)
    assert outcome([], START_MS, labels).precision is None


def test_both_sides_are_compared_over_the_same_rows() -> None:
    stored = [("early", -1, 50.0), ("small", 1, 4.0), ("large", 2, 40.0), ("large", 3, 0.0)]
    events = [event(hours, amount, user) for user, hours, amount in [*stored, ("login", 4, 2.0)]]
    current, edited = [rule()], [rule(when="amount >= 20 or amount == 2")]
    labels = {("large", START_MS + 2 * HOUR_MS): "fraud"}
    found = compare(current, edited, blocks(events), START_MS, START_MS + DAY_MS, labels)
    assert (found.windows, found.events) == (0, 4)
    assert (found.current.alerts, found.edited.alerts) == (2, 2)
    assert found.edited.precision == 1.0
    shown = orjson.loads(orjson.dumps(as_json(found), option=orjson.OPT_NON_STR_KEYS))
    assert shown["current"]["users"] == 2
    assert shown["edited"]["labelled"] == 1
