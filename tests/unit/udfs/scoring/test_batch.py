"""EventScorer on batches: scores, flags, stored rows and hours, alerts, consents, erasures."""

import logging
import random
from typing import Any
from unittest.mock import Mock

import pytest

from liveprofile.consent.changes import ConsentChange, ConsentTable
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.pseudonym import user_pseudonym
from liveprofile.units import HOUR_MS, MINUTE_MS
from models.fraud.model import FraudModel
from tests.reference.consents import is_allowed
from tests.reference.entity_features import Arrival, Event
from tests.reference.scoring import alerting_flag_ids, decide, event_parts
from tests.reference.units import DAY_MS
from tests.support.rows.statements import stated
from tests.support.scoring_harness import (
    ANY_PURCHASE,
    LIKELY,
    SETTINGS,
    START_MS,
    ScoringHarness,
    assert_matches_reference,
    assert_scored,
    purchases,
    random_arrivals,
)
from udfs.scoring.store import HOUR_REFRESH_S, WrittenHours
from udfs.worker import MAX_CONSECUTIVE_FAILED_ROWS


@pytest.mark.parametrize("batch_rows", [1, 7, 1_000])
def test_batches_of_any_size_match_the_reference(
    model: FraudModel, batch_rows: int, shipped_rules: list[dict[str, Any]]
) -> None:
    arrivals = random_arrivals(batch_rows, count=80 if batch_rows == 1 else 140)
    scorer = ScoringHarness(model)
    rows = [row for row, arrival in enumerate(arrivals) if isinstance(arrival, Event)]
    sent = []
    for start in range(0, len(rows), batch_rows):
        sent += scorer.score(arrivals, rows[start : start + batch_rows])
    expected = decide(arrivals, shipped_rules, model, max_entries=128)
    assert_matches_reference(scorer.sink, expected)
    flag_ids = alerting_flag_ids(expected, shipped_rules)
    assert sorted(alert["id"] for alerts in sent for alert in alerts) == sorted(flag_ids)
    assert len({flag.rule_id for flag in scorer.sink.flags.values()}) >= 2
    assert sum(timing.duplicates for timing in scorer.timings) == len(rows) - len(expected) > 5


def test_timing_counts_from_the_arrival_of_each_event(model: FraudModel) -> None:
    """Not from event_time, which is the client's clock. A duplicate is not counted.

    Only the first purchase sends an alert: the rule stays true after it.
    """
    arrivals = [*purchases(3, amount=20.0), *purchases(1, amount=20.0)]
    scorer = ScoringHarness(model, {**ANY_PURCHASE, "threshold": 10.0}, now_ms=START_MS + 900)
    arrived_ms = [START_MS + 100, START_MS + 400, 0, START_MS + 800]
    texts = [
        event_parts(arrivals, row).replace("\x1f0\x1d", f"\x1f{arrived}\x1d", 1)
        for row, arrived in enumerate(arrived_ms)
    ]
    scorer.score_texts(["u"] * 4, texts)
    [timing] = scorer.timings
    assert (timing.rows, timing.duplicates) == (3, 1)
    assert timing.event_to_score_ms == [800.0, 500.0]
    assert timing.event_to_alert_ms == [800.0]


def test_events_out_of_order_match_the_reference_in_any_batches_and_no_kill_loses_an_alert(
    model: FraudModel,
) -> None:
    """A kill between store and send loses the batch's alerts. The rows after the last checkpoint
    come again, in other batches, and late events that followed them are in the store by then."""
    rng, kills = random.Random(9), 0
    rules = [{**ANY_PURCHASE, "threshold": 20.0}, {**LIKELY, "cool_down_hours": 24}]
    arrivals: list[Arrival] = []
    for number in range(40):
        time_ms = START_MS + number // 4 * 20 * MINUTE_MS - rng.choice([0, 0, 90 * MINUTE_MS])
        user, amount = rng.choice("uv"), rng.choice([1.0, 20.0, 300.0])
        event_id = f"e{rng.random()}"  # some events are in the same millisecond
        arrivals.append(Event(event_id, user, "purchase", time_ms, amount, f"device-{user}"))
    expected = decide(arrivals, rules, model, SETTINGS.scoring.history)
    flags = {flag_id for decision in expected.values() for flag_id in decision.flags.values()}
    assert 10 < len(flags) < len(arrivals)
    for killed in [0.0] * 5 + [0.3] * 8:
        scorer, sent, start, checkpoint = ScoringHarness(model, *rules), set(), 0, 0
        while start < len(arrivals):
            end = min(start + rng.choice([1, 2, 3, 10, 40]), len(arrivals))
            alerts = scorer.score(arrivals, rng.sample(range(start, end), end - start))
            if rng.random() < killed:
                start, kills = checkpoint, kills + 1
                continue
            sent |= {alert["id"] for of_row in alerts for alert in of_row}
            start = end
            checkpoint = end if rng.random() < 0.5 else checkpoint
        assert sent == {flag.flag_id for flag in scorer.sink.flags.values()}
        if not killed:
            assert_matches_reference(scorer.sink, expected)
            assert sent == flags
    assert kills > 15


@pytest.mark.parametrize("bad", ["", "nonsense", "token", "type"])
def test_malformed_row_is_skipped_and_the_others_are_scored(
    model: FraudModel, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    arrivals, scorer = purchases(3), ScoringHarness(model, ANY_PURCHASE)
    texts = [event_parts(arrivals, row) for row in range(3)]
    malformed = {
        "token": texts[1].replace("\x1dd\x1f", "\x1dd\x1fnoon\x1f", 1),
        "type": texts[1].replace("purchase", "unheard of"),
    }
    texts[1] = malformed.get(bad, bad)
    with caplog.at_level(logging.WARNING):
        sent = scorer.score_texts(["u"] * 3, texts)
    # The rule is true of the first event already, so the last raises no flag.
    assert [len(alerts) for alerts in sent] == [1, 0, 0]
    assert {event_id for _, _, event_id in scorer.sink.scores} == {"u0", "u2"}
    assert [timing.unscored for timing in scorer.timings] == [0, 1, 0]
    [line] = [record.getMessage() for record in caplog.records]
    assert user_pseudonym("u") in line and "user u " not in line


def test_too_many_consecutive_malformed_rows_fail_the_task(model: FraudModel) -> None:
    scorer = ScoringHarness(model)
    with pytest.raises((ValueError, KeyError)):
        for _ in range(MAX_CONSECUTIVE_FAILED_ROWS + 1):
            scorer.score_texts(["u"], ["nonsense"])


def test_shadow_rule_stores_its_flag_and_sends_no_alert(model: FraudModel) -> None:
    scorer = ScoringHarness(model, {**ANY_PURCHASE, "state": "SHADOW"})
    assert scorer.score(purchases(1), [0]) == [[]]
    [flag] = scorer.sink.flags.values()
    assert (flag.rule_state, flag.rule_id, flag.event_id) == ("SHADOW", "any_purchase", "u0")
    [row] = scorer.sink.scores.values()
    assert row.active_rules == ["any_purchase"]


@pytest.mark.parametrize("rule", ["any_purchase", "*"])
def test_snoozed_rule_stores_its_flag_and_sends_no_alert(model: FraudModel, rule: str) -> None:
    scorer = ScoringHarness(model, ANY_PURCHASE)
    scorer.sink.snoozes["u"] = {rule: 1 << 60}
    arrivals = [*purchases(1), *purchases(1, user="v")]
    snoozed, not_snoozed = scorer.score(arrivals, [0, 1])
    assert (snoozed, [alert["subject"] for alert in not_snoozed]) == ([], ["v"])
    assert {user_id for user_id, *_ in scorer.sink.flags} == {"u", "v"}


def test_flag_of_a_score_rule_has_the_models_reasons(model: FraudModel) -> None:
    odd = Event("odd", "u", "purchase", START_MS + DAY_MS, 900.0, "d-other", "1:1", "s", "", "a")
    arrivals = [*purchases(6), odd]
    scorer = ScoringHarness(model, LIKELY, {**ANY_PURCHASE, "threshold": 800.0})
    alerts = scorer.score(arrivals, [6])[0]
    flags = {flag.rule_id: flag for flag in scorer.sink.flags.values()}
    by_model, by_rule = flags["likely"], flags["any_purchase"]
    [score] = [row.score for row in scorer.sink.scores.values()]
    assert by_model.reasons[0] == {
        "code": "LIKELY",
        "value": score,
        "usual": None,
        "sentence": str(score),
    }
    assert len(by_model.reasons) > 1
    assert all(set(one) == {"code", "value", "usual", "sentence"} for one in by_model.reasons)
    assert [reason["code"] for reason in by_rule.reasons] == ["ANY_PURCHASE"]
    sent = {alert["data"]["rule_id"]: alert["data"]["reasons"] for alert in alerts}
    assert sent == {rule_id: list(flag.reasons) for rule_id, flag in flags.items()}


def test_rule_reads_what_others_state_about_the_user(model: FraudModel) -> None:
    arrivals = purchases(1, user="u") + purchases(1, user="v")
    scorer = ScoringHarness(model, {**ANY_PURCHASE, "when": 'not attribute("identity_verified")'})
    scorer.sink.attributes = {
        "u": [stated("u", START_MS - 1, purpose="risk", identity_verified=False)]
    }
    first, second = scorer.score(arrivals, [0, 1])
    assert [alert["subject"] for alert in first] == ["u"]
    assert second == []


def test_no_alert_is_returned_before_all_is_stored(model: FraudModel) -> None:
    scorer = ScoringHarness(model, ANY_PURCHASE)
    scorer.sink.flush = Mock(side_effect=OSError("no store"))
    with pytest.raises(OSError, match="no store"):
        scorer.score(purchases(1), [0])


def test_hour_is_written_once_until_it_must_be_refreshed() -> None:
    now_s = [5.0]  # a clock that starts when the machine does
    hours = WrittenHours(lambda: now_s[0])
    assert hours.add("u", 0)
    assert not hours.add("u", 0)
    assert hours.add("u", HOUR_MS) and hours.add("v", 0)
    now_s[0] += HOUR_REFRESH_S - 1
    assert not hours.add("u", 0)
    now_s[0] += 1
    assert hours.add("u", 0)
    assert not hours.add("u", 0)


@pytest.mark.parametrize("seed", range(2))
def test_only_events_that_users_allow_are_scored(
    model: FraudModel, seed: int, shipped_rules: list[dict[str, Any]]
) -> None:
    arrivals, rng = random_arrivals(seed, count=160), random.Random(seed)
    rows = [row for row, arrival in enumerate(arrivals) if isinstance(arrival, Event)]
    times_ms = [arrivals[row].time_ms for row in rows]
    feed = ConsentTable(SETTINGS.consent.defaults)
    changes: dict[str, list[ConsentChange]] = {}
    for user in [f"u{number}" for number in range(8)]:
        for _ in range(rng.randrange(1, 4)):
            change = ConsentChange(rng.choice(times_ms), "risk", rng.random() < 0.3)
            changes.setdefault(user, []).append(change)
        feed.put(user, changes.get(user, []))
    scorer = ScoringHarness(model, consents=feed)
    for first in range(0, len(rows), 50):
        scorer.score(arrivals, rows[first : first + 50])

    # The lists keep events that are not allowed: other users share their devices.
    whole = decide(arrivals, shipped_rules, model, max_entries=128)
    expected = {
        key: each
        for key, each in whole.items()
        if is_allowed(changes.get(each.event.user, ()), "risk", key[1])
    }
    assert scorer.sink.scores.keys() == expected.keys()
    for key, row in scorer.sink.scores.items():
        assert_scored(row, expected[key])
    assert len(whole) - len(expected) > 20 and len(expected) > 50


@pytest.mark.parametrize("seed", range(2))
def test_users_who_are_erased_while_events_arrive_start_from_nothing(
    model: FraudModel, seed: int, shipped_rules: list[dict[str, Any]]
) -> None:
    arrivals, rng = random_arrivals(seed, count=160), random.Random(seed)
    feed = ErasureTable()
    scorer = ScoringHarness(model, erasures=feed)
    middle = len(arrivals) // 2
    rows = [row for row, arrival in enumerate(arrivals) if isinstance(arrival, Event)]
    scorer.score(arrivals, [row for row in rows if row < middle])
    before = dict(scorer.sink.scores)
    before_ms = arrivals[middle].time_ms
    erased = {user: before_ms for user in rng.sample([f"u{n}" for n in range(8)], 3)}
    for user in erased:
        feed.put(user, before_ms)
    # The tables still hold what is erased. Some events of the first half come again.
    scorer.score(arrivals, [row for row in rows if row >= middle - 40])

    users = [(each if isinstance(each, Event) else each.event).user for each in arrivals]
    later = [
        arrival
        for arrival, user in zip(arrivals, users, strict=True)
        if arrival.time_ms >= erased.get(user, 0)
    ]
    expected = decide(later, shipped_rules, model, max_entries=128)
    kept = {key: row for key, row in scorer.sink.scores.items() if key[1] >= before_ms}
    assert kept.keys() == {key for key in expected if key[1] >= before_ms}
    for key, row in kept.items():
        assert_scored(row, expected[key])
        if key[0] in erased:  # flags of others depend on those that they had before
            assert {flag.rule_id for flag in row.flags} == set(expected[key].flags), key
    whole = scorer.sink.scores
    of_erased = {key: row for key, row in before.items() if key[0] in erased}
    assert len(of_erased) > 20 and {key: whole[key] for key in of_erased} == of_erased
    assert sum(user in erased for user, _, _ in kept) > 20
