"""Edited rules compared with those in force."""

from __future__ import annotations

import orjson

from liveprofile.labels.known_labels import KnownLabel, by_user_and_time
from liveprofile.labels.rule_backtest import as_json, compare, first_needed_ms
from liveprofile.rules.stored_rows import StoredEvent, event_blocks
from liveprofile.units import DAY_MS, HOUR_MS
from tests.support.rows.rule_examples import rule

START_MS = 1_511_654_400_000
EVENTS = [
    StoredEvent(user, START_MS + hours * HOUR_MS, f"{user}{hours}", "purchase", amount, 0.5, None)
    for user, hours, amount in [
        ("early", -1, 50.0),
        ("small", 1, 4.0),
        ("large", 2, 40.0),
        ("large", 3, 0.0),
        ("login", 4, 2.0),
    ]
]


def test_users_who_change_side_are_named() -> None:
    current, edited = [rule()], [rule(when="amount >= 20 or amount == 2")]
    labels = {("large", START_MS + 2 * HOUR_MS): "fraud"}
    found = compare(current, edited, event_blocks(EVENTS), START_MS, START_MS + DAY_MS, labels)
    assert (found.gained, found.lost) == (["login"], ["small"])
    assert (found.windows, found.events) == (0, 4)
    assert (found.current.alerts, found.edited.alerts) == (2, 2)
    assert found.edited.precision == 1.0
    shown = orjson.loads(orjson.dumps(as_json(found), option=orjson.OPT_NON_STR_KEYS))
    assert shown["current"]["users"] == 2
    assert shown["edited"]["labelled"] == 1


def test_rows_before_the_range_are_read_for_the_longest_cool_down() -> None:
    rules = [rule(), rule(cool_down_hours=72)]
    assert first_needed_ms(rules, START_MS) == START_MS - 3 * DAY_MS
    assert first_needed_ms([], START_MS) == START_MS


def test_later_label_counts() -> None:
    first, second = KnownLabel("a", 1, "fraud"), KnownLabel("a", 1, "legitimate")
    assert by_user_and_time([first], [second]) == {("a", 1): "legitimate"}
