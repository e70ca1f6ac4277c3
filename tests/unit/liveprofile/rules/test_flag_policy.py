"""Evaluation of the shipped rules, and when a true rule raises a flag."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.features import window_features
from liveprofile.rules import flag_policy
from liveprofile.rules.flag_policy import FlagPolicy, RuleEvaluation
from liveprofile.rules.flags import Flag
from liveprofile.rules.rules import (
    Rule,
)
from liveprofile.units import HOUR_MS, MINUTE_MS
from tests.support.memory.sinks import MemoryProfileSink, MemoryScoringSink
from tests.support.rows.rule_examples import SHIPPED_RULES, event_columns, rule
from tests.support.rows.scored_events import START_MS, scored_event
from udfs.profile.assemble import FEATURES

WINDOWS = {rule.id: rule for rule in SHIPPED_RULES.evaluated("window")}


EVENTS = {rule.id: rule for rule in SHIPPED_RULES.evaluated("event")}


def expected(window: dict[str, float], before: dict[str, float]) -> dict[str, tuple[float, str]]:
    """Returns value and message of the shipped window rules that are true."""
    found = {}
    n, amount, events = window["purchases"], window["amount"], window["events"]
    mean, std = before["purchase_count_mean"], before["purchase_count_std"]
    z = (n - mean) / max(std, 1.0)
    if z >= 4.0 and before["purchase_windows"] >= 5 and n >= 3:
        text = f"{n} purchases in this window; usually {mean:.1f} ± {std:.1f}"
        found["purchase_frequency"] = (z, text)
    mean, std = before["purchase_amount_mean"], before["purchase_amount_std"]
    z = (amount - mean) / max(std, 0.1 * mean, 1.0)
    if z >= 4.0 and before["purchase_windows"] >= 5 and n >= 1:
        text = f"{amount:.2f} spent in this window; usually {mean:.2f} ± {std:.2f}"
        found["purchase_amount"] = (z, text)
    surprise = window["surprise"]
    if surprise >= 7.5 and before["windows"] >= 3 and events >= 3:
        text = (
            f"{events} events in this window that do not fit this user's past:"
            f" surprise {surprise:.1f}, flagged from 7.5"
        )
        found["behaviour_surprise"] = (surprise, text)
    return found


def amounts(limit: float) -> st.SearchStrategy[float]:
    return st.floats(0, limit).map(lambda x: round(x, 3))


windows = st.fixed_dictionaries(
    {
        "events": st.integers(1, 8),
        "purchases": st.integers(0, 30),
        "amount": amounts(900),
        "surprise": amounts(12),
    }
)


pasts = st.fixed_dictionaries(
    dict.fromkeys(FEATURES, st.just(0.0))
    | {
        "windows": st.integers(0, 8).map(float),
        "purchase_windows": st.integers(0, 8).map(float),
        "purchase_count_mean": amounts(4),
        "purchase_count_std": amounts(3),
        "purchase_amount_mean": amounts(90),
        "purchase_amount_std": amounts(30),
        "recency_days": st.just(math.nan),
    }
)


@given(st.lists(st.tuples(windows, pasts), min_size=1))
def test_shipped_window_rules_match_the_contract(table: list[Any]) -> None:
    now = {name: np.array([window[name] for window, _ in table]) for name in table[0][0]}
    before = {name: np.array([past[name] for _, past in table]) for name in FEATURES}
    columns = window_features.window_features(before, now)
    assert columns.keys() == window_features.WINDOW_FEATURES.keys()
    found = flag_policy.evaluate_rules(list(WINDOWS.values()), columns, len(table))
    for (window, past), matches in zip(table, found, strict=True):
        flags = [flag_policy.build_flag(match, "u", 300_000, "1") for match in matches]
        raised = {flag.rule_id: (flag.value, flag.message) for flag in flags}
        assert raised == expected(window, past)


def true(rule_id: str, **known: Any) -> bool:
    columns = event_columns(**{name: [value] for name, value in known.items()})
    return bool(flag_policy.evaluate_rules([EVENTS[rule_id]], columns, 1)[0])


CARD_TEST = {"user_purchases_10m": 5, "user_amount_10m": 20, "device_list_days": 0.5}


@pytest.mark.parametrize(
    ("rule_id", "known", "but"),
    [
        ("card_testing", CARD_TEST, {"user_amount_10m": 21}),
        ("card_testing", CARD_TEST, {"event_type": "login"}),
        ("account_takeover",
         {"device_list_days": 0, "user_new_address": 1, "user_earlier_purchases": 5,
          "user_amount_ratio": 2, "user_usual_amount": 10, "amount": 20},
         {"user_new_address": 0}),
        ("device_many_users", {"device_users_1d": 8}, {"device_users_1d": 7}),
        ("coupon_ring",
         {"coupon_users_1d": 5, "device_users_7d": 8}, {"device_users_7d": math.nan}),
        ("device_known_fraud", {"device_frauds_30d": 1}, {"device_frauds_30d": 0}),
        ("shop_known_fraud", {"shop_frauds_7d": 2, "shop_fraud_rate_7d": 0.05},
         {"shop_frauds_7d": 1}),
        ("fraud_score", {"score": 0.9}, {"score": 0.89}),
    ],
)  # fmt: skip
def test_shipped_event_rule_is_true_only_above_its_limits(
    rule_id: str, known: dict[str, Any], but: dict[str, Any]
) -> None:
    assert true(rule_id, **known)
    assert not true(rule_id, **known | but)


def test_rule_with_unknown_value_is_false() -> None:
    columns = event_columns(amount=[5.0], score=[math.nan])
    assert flag_policy.evaluate_rules([rule(value="score")], columns, 1) == [[]]
    [[match]] = flag_policy.evaluate_rules([rule(usual="score")], columns, 1)
    assert flag_policy.reason_entry(match)["usual"] is None


def test_event_flag_has_id_evidence_and_state() -> None:
    seen = rule(
        when='event_type == "login" or amount > 3',
        version=4,
        state="SHADOW",
        usual="score",
        message="{event_type} of {amount:.2f}, {usual:.0%}",
    )
    [[match]] = flag_policy.evaluate_rules([seen], event_columns(amount=[5.25], score=[0.5]), 1)
    flag = flag_policy.build_flag(match, "u", 99, "9", "e1")
    assert flag.flag_id == hashlib.sha256(b"u\x1fmany\x1fe1").hexdigest()[:32]
    assert flag.evidence == {
        "value": 5.25,
        "usual": 0.5,
        "threshold": 3.0,
        "event_type": "purchase",
        "amount": 5.25,
    }
    assert flag.message == flag.reasons[0]["sentence"] == "purchase of 5.25, 50%"
    assert (flag.event_id, flag.rule_version, flag.rule_state) == ("e1", 4, "SHADOW")


def evaluation(time_ms: int, *rules: Rule, user_id: str = "u") -> RuleEvaluation:
    columns = event_columns(amount=[5.0])
    return RuleEvaluation(
        user_id, time_ms, flag_policy.evaluate_rules(rules, columns, 1)[0], f"e{time_ms}"
    )


def raised(rows: list[RuleEvaluation], store: Any) -> list[list[str]]:
    flags = FlagPolicy(store).raise_flags(rows, "1")
    return [[flag.event_id for flag in of_row] for of_row in flags]


@pytest.mark.parametrize("state", ["ACTIVE", "SHADOW"])
def test_flag_needs_change_to_true_outside_cool_down(state: str) -> None:
    one = rule(state=state)
    rows = [
        evaluation(0, one),
        evaluation(1, one),
        evaluation(2),
        evaluation(3, one),
        evaluation(3, one, user_id="v"),
        evaluation(4),
        evaluation(2 * HOUR_MS, one),
    ]
    assert raised(rows, MemoryProfileSink()) == [
        ["e0"],
        [],
        [],
        [],
        ["e3"],
        [],
        [f"e{2 * HOUR_MS}"],
    ]


RULES = (rule(), rule(id="free", cool_down_hours=0))
CUTS, KILLS = 1_000, 200


class Store:
    """Evaluates batches as the scoring pipeline does, with the store of its tests."""

    def __init__(self) -> None:
        self.sink = MemoryScoringSink()
        self._policy = FlagPolicy(self.sink)

    def evaluate(self, rows: Sequence[RuleEvaluation]) -> list[Flag]:
        """Stores the rows with their flags and returns the flags, which are not sent yet."""
        raised = self._policy.raise_flags(rows, "1")
        self.sink.write(
            [
                scored_event(
                    row.user_id,
                    event_id=row.event_id,
                    event_ms=row.time_ms,
                    active_rules=[match.rule.id for match in row.matches],
                    flags=flags,
                )
                for row, flags in zip(rows, raised, strict=True)
            ]
        )
        return [flag for flags in raised for flag in flags]


def stream(rng: random.Random, events: int = 40) -> list[RuleEvaluation]:
    """Events of two users, some in one millisecond, some out of order; at most of them all rules
    are true."""
    matches, _ = flag_policy.evaluate_rules(RULES, event_columns(amount=[5.0, 0.0]), 2)
    return [
        RuleEvaluation(
            rng.choice("uv"),
            START_MS + number // 4 * 20 * MINUTE_MS - rng.choice([0, 0, 0, 2 * HOUR_MS]),
            [match for match in matches if rng.random() < 0.7],
            f"e{rng.random()}",
        )
        for number in range(events)
    ]


def batches(rng: random.Random, rows: Sequence[RuleEvaluation]) -> Iterator[list[RuleEvaluation]]:
    start = 0
    while start < len(rows):
        end = start + rng.choice([1, 2, 5, 20, len(rows)])
        yield list(rows[start:end])
        start = end


@pytest.mark.slow
def test_flags_do_not_depend_on_batches() -> None:
    rng = random.Random(1)
    rows = stream(rng)
    one_by_one = Store()
    for row in rows:
        one_by_one.evaluate([row])
    expected = one_by_one.sink.flags.keys()
    assert 10 < len(expected) < len(rows) * len(RULES) / 2
    for _ in range(CUTS):
        store = Store()
        for batch in batches(rng, rows):
            store.evaluate(batch)
        assert store.sink.flags.keys() == expected


def test_cool_down_holds_in_the_same_millisecond_and_for_late_events() -> None:
    rng, cool_down_ms = random.Random(2), RULES[0].cool_down_hours * HOUR_MS
    for _ in range(100):
        store = Store()
        for batch in batches(rng, stream(rng)):
            store.evaluate(batch)
        for user_id in "uv":
            raised_ms = sorted(
                time_ms
                for user, time_ms, rule_id, _ in store.sink.flags
                if (user, rule_id) == (user_id, RULES[0].id)
            )
            assert all(b - a >= cool_down_ms for a, b in pairwise(raised_ms))


@pytest.mark.slow
def test_every_stored_flag_is_sent_although_tasks_are_killed() -> None:
    """A kill between store and send loses the batch's alerts. The rows after the last checkpoint
    come again, in other batches, and late events that followed them are in the store by then."""
    rng, kills = random.Random(3), 0
    while kills < KILLS:
        rows, store, sent, covered, start = stream(rng), Store(), set(), 0, 0
        while start < len(rows):
            end = min(start + rng.randrange(1, 15), len(rows))
            flags = store.evaluate(rows[start:end])
            if rng.random() < 0.3:
                start, kills = covered, kills + 1
                continue
            sent |= {flag.flag_id for flag in flags}
            start = end
            covered = end if rng.random() < 0.5 else covered
        assert sent == {flag.flag_id for flag in store.sink.flags.values()}
