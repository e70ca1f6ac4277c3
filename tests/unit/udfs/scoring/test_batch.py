"""The event lane's work on batches: what is scored, flagged, stored and sent, and what is not."""

from __future__ import annotations

import json
import logging
import random
import tomllib
from collections.abc import Sequence
from typing import Any

import pytest

from liveprofile.config import load
from liveprofile.pseudonym import hashed
from liveprofile.resources import product_path
from liveprofile.rules.rules import Rules, read_rules
from liveprofile.units import MINUTE_MS
from models.fraud.model import EventModel
from tests.reference.entity_features import DAY, Arrival, Event, Label
from tests.reference.scoring import Decision, Key, decide, first_rows, key_of, loud, parts
from tests.support.memory_sinks import MemoryScoringSink
from udfs.profile.batch import MOST_FAILED_ROWS
from udfs.rules_feed import RulesFeed
from udfs.scoring.batch import EventScorer, Timing

START_MS = 1_700_000_000_000
SETTINGS = load()
SHIPPED = tomllib.loads(product_path(SETTINGS.rules).read_text(encoding="utf-8"))["rules"]
ANY_PURCHASE = {
    "id": "any_purchase", "scope": "event", "types": ["purchase"], "when": "amount >= threshold",
    "value": "amount", "threshold": 0.0, "reason": "ANY_PURCHASE", "severity": "low",
    "action": "notify_customer_service", "cool_down_hours": 0, "message": "{value}",
}  # fmt: skip
LIKELY = {
    **ANY_PURCHASE, "id": "likely", "types": [], "when": "score > threshold", "value": "score",
    "threshold": 0.0, "reason": "LIKELY",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> EventModel:
    return EventModel.load(product_path(SETTINGS.scoring.checkpoint))


def rules_of(*tables: dict[str, Any]) -> Rules:
    return Rules.model_validate({"version": "test", "rules": tables})


class Lane:
    """A scorer with a store in memory, and what it said."""

    def __init__(self, model: EventModel, *tables: dict[str, Any]):
        self.store = MemoryScoringSink()
        self.timings: list[Timing] = []
        rules = rules_of(*tables) if tables else read_rules(product_path(SETTINGS.rules))
        self._scorer = EventScorer(
            SETTINGS, model, self.store, RulesFeed(rules), self.timings.append
        )

    def score(self, arrivals: list[Arrival], rows: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The alerts of each row."""
        return self.send([user(arrivals, row) for row in rows], [parts(arrivals, r) for r in rows])

    def send(self, users: list[str], texts: list[str]) -> list[list[dict[str, Any]]]:
        sent = self._scorer.score(users, texts)
        return [[json.loads(one.split("\x1d", 1)[1]) for one in of_row] for of_row in sent]


def user(arrivals: list[Arrival], row: int) -> str:
    event = arrivals[row]
    assert isinstance(event, Event)
    return event.user


def purchases(count: int, amount: float = 20.0, user: str = "u") -> list[Arrival]:
    return [
        Event(f"{user}{n}", user, "purchase", START_MS + n * MINUTE_MS, amount, f"d-{user}")
        for n in range(count)
    ]


def stream(seed: int, count: int = 250) -> list[Arrival]:
    """Users in turn, in order of time, who use few devices; with copies and labels."""
    rng, arrivals, events = random.Random(seed), [], []
    now_ms = START_MS
    for number in range(count):
        now_ms += rng.choice([1_000, 20_000, 90 * MINUTE_MS])
        event = Event(
            f"e{number}",
            f"u{rng.randrange(8)}",
            rng.choice(["purchase"] * 3 + ["login", "coupon", "share"]),
            now_ms,
            rng.choice([0.5, 1.0, 20.0, 480.0]),
            *(rng.choice(["", f"{name}1", f"{name}2"]) for name in "dpsca"),
        )
        events.append(event)
        arrivals.append(event)
        if rng.random() < 0.1:
            arrivals.append(rng.choice(events))
        if rng.random() < 0.1:
            arrivals.append(Label(rng.choice(events), rng.random() < 0.7, now_ms + 1))
    return arrivals


def assert_decided(store: MemoryScoringSink, expected: dict[Key, Decision]) -> None:
    assert store.scores.keys() == expected.keys()
    for key, decision in expected.items():
        row = store.scores[key]
        assert row.score == pytest.approx(decision.score, abs=1e-6), key
        assert set(row.active_rules) == decision.active_rules, key
        assert {flag.rule_id: flag.flag_id for flag in row.flags} == decision.flags, key


@pytest.mark.parametrize("batch", [1, 7, 1_000])
def test_any_batches_give_what_plain_python_says(model: EventModel, batch: int) -> None:
    arrivals, lane = stream(batch, count=80 if batch == 1 else 250), Lane(model)
    rows = [row for row, one in enumerate(arrivals) if isinstance(one, Event)]
    sent = []
    for start in range(0, len(rows), batch):
        sent += lane.score(arrivals, rows[start : start + batch])
    expected = decide(arrivals, SHIPPED, model, keep=128)
    assert_decided(lane.store, expected)
    flags = loud(expected, SHIPPED)
    assert sorted(alert["id"] for of_row in sent for alert in of_row) == sorted(flags)
    assert len({flag.rule_id for flag in lane.store.flags.values()}) >= 2
    assert sum(timing.duplicates for timing in lane.timings) == len(rows) - len(expected) > 5


def test_a_copy_is_not_scored_again(model: EventModel) -> None:
    [event] = purchases(1)
    lane = Lane(model, ANY_PURCHASE)
    first, second = lane.score([event, event], [0, 1])
    assert [alert["data"]["event_id"] for alert in first] == ["u0"]
    assert second == []
    assert lane.score([event, event, event], [2]) == [[]]
    assert len(lane.store.scores) == 1
    assert [(one.rows, one.duplicates) for one in lane.timings] == [(1, 1), (0, 1)]


def test_events_are_judged_in_order_of_time(model: EventModel) -> None:
    """However they lie in a batch; the messages stay with their rows."""
    arrivals = purchases(3)
    late_first = [arrivals[2], arrivals[0], arrivals[1]]
    once = {**ANY_PURCHASE, "cool_down_hours": 24}
    lane = Lane(model, once)
    sent = lane.score(late_first, [0, 1, 2])
    assert [[alert["data"]["event_id"] for alert in of_row] for of_row in sent] == [[], ["u0"], []]


def test_a_replay_says_the_same_again(model: EventModel) -> None:
    arrivals, lane = stream(5), Lane(model)
    rows = first_rows(arrivals)
    first = lane.score(arrivals, rows)
    stored = str(lane.store.scores)  # NaN is no equal of itself
    assert lane.score(arrivals, rows) == first
    assert str(lane.store.scores) == stored


@pytest.mark.parametrize("bad", ["", "h", "nonsense", "token", "type"])
def test_a_row_that_cannot_be_read_is_left_out_alone(
    model: EventModel, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    arrivals, lane = purchases(3), Lane(model, ANY_PURCHASE)
    texts = [parts(arrivals, row) for row in range(3)]
    broken = {
        "token": texts[1].replace("\x1dud\x1f", "\x1dud\x1fnoon\x1f"),
        "type": texts[1].replace("purchase", "view"),
    }
    texts[1] = broken.get(bad, bad) if bad != "type" else broken[bad].replace("view", "unheard of")
    with caplog.at_level(logging.WARNING):
        sent = lane.send(["u"] * 3, texts)
    assert [len(of_row) for of_row in sent] == [1, 0, 0]  # true before is no flag after
    assert {event_id for _, _, event_id in lane.store.scores} == {"u0", "u2"}
    assert [timing.unscored for timing in lane.timings] == [0, 1, 0]
    [line] = [record.getMessage() for record in caplog.records]
    assert hashed("u") in line and "user u " not in line


def test_a_lane_that_reads_nothing_fails_the_task(model: EventModel) -> None:
    lane = Lane(model)
    good = purchases(1)
    with pytest.raises((ValueError, KeyError)):
        for _ in range(MOST_FAILED_ROWS + 1):
            lane.send(["u"], ["nonsense"])
    again = Lane(model)
    for _ in range(MOST_FAILED_ROWS):
        again.send(["u"], ["nonsense"])
    again.score(good, [0])  # counts anew from here
    again.send(["u"], ["nonsense"])


def test_a_rule_in_shadow_stores_its_flag_and_sends_nothing(model: EventModel) -> None:
    lane = Lane(model, {**ANY_PURCHASE, "state": "SHADOW"})
    assert lane.score(purchases(1), [0]) == [[]]
    [flag] = lane.store.flags.values()
    assert (flag.rule_state, flag.rule_id, flag.event_id) == ("SHADOW", "any_purchase", "u0")
    [row] = lane.store.scores.values()
    assert row.active_rules == ["any_purchase"]


@pytest.mark.parametrize("rule", ["any_purchase", "*"])
def test_a_snooze_stores_and_sends_nothing(model: EventModel, rule: str) -> None:
    lane = Lane(model, ANY_PURCHASE)
    lane.store.snoozes["u"] = {rule: 1 << 60}
    arrivals = [*purchases(1), *purchases(1, user="v")]
    silent, loud = lane.score(arrivals, [0, 1])
    assert (silent, [alert["subject"] for alert in loud]) == ([], ["v"])
    assert {user_id for user_id, _, _ in lane.store.flags} == {"u", "v"}


def test_a_snooze_that_is_over_is_none(model: EventModel) -> None:
    lane = Lane(model, ANY_PURCHASE)
    lane.store.snoozes["u"] = {"any_purchase": 1}
    assert len(lane.score(purchases(1), [0])[0]) == 1


def test_a_flag_of_the_score_has_the_models_reasons(model: EventModel) -> None:
    odd = Event("odd", "u", "purchase", START_MS + DAY, 900.0, "d-other", "1:1", "s", "", "a")
    arrivals = [*purchases(6), odd]
    lane = Lane(model, LIKELY, {**ANY_PURCHASE, "threshold": 800.0})
    alerts = lane.score(arrivals, [6])[0]
    flags = {flag.rule_id: flag for flag in lane.store.flags.values()}
    by_model, by_rule = flags["likely"], flags["any_purchase"]
    [score] = [row.score for row in lane.store.scores.values()]
    assert by_model.reasons[0] == {
        "code": "LIKELY", "value": score, "usual": None, "sentence": str(score),
    }  # fmt: skip
    assert len(by_model.reasons) > 1
    assert all(set(one) == {"code", "value", "usual", "sentence"} for one in by_model.reasons)
    assert [reason["code"] for reason in by_rule.reasons] == ["ANY_PURCHASE"]
    told = {alert["data"]["rule_id"]: alert["data"]["reasons"] for alert in alerts}
    assert told == {rule_id: list(flag.reasons) for rule_id, flag in flags.items()}


def test_a_stored_event_says_what_it_was_about(model: EventModel) -> None:
    event = Event("e", "u", "purchase", START_MS, 12.5, "d", "1:2", "", "c", "")
    lane = Lane(model, ANY_PURCHASE)
    lane.score([event], [0])
    row = lane.store.scores[key_of(event)]
    assert (row.event_type, row.amount, row.entities) == (
        "purchase",
        12.5,
        ("d", "1:2", "", "c", ""),
    )
    assert (row.model_version, row.rules_version) == (model.version, "test")
    assert row.window_start_ms == row.window_end_ms == START_MS


def test_nothing_is_sent_before_it_is_stored(model: EventModel) -> None:
    lane = Lane(model, ANY_PURCHASE)

    def fails() -> None:
        raise OSError("no store")

    lane.store.wait = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no store"):
        lane.score(purchases(1), [0])
