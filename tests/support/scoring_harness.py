"""Runs an EventScorer with an in-memory sink over the arrivals of tests/reference/scoring.py."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from liveprofile.consent.changes import ConsentTable
from liveprofile.feeds.feed import Fixed
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.resources import product_path
from liveprofile.rules.rules import RuleSet, read_rules
from liveprofile.settings import load
from liveprofile.units import MINUTE_MS
from liveprofile.wire.tokens import WINDOW
from models.fraud.model import FraudModel
from tests.reference.entity_features import Arrival, Event, Label
from tests.reference.scoring import Decision, Key, event_parts
from tests.support.memory.feeds import fixed_feeds
from tests.support.memory.sinks import MemoryScoringSink
from tests.support.rows.rule_examples import rule_table
from udfs.scoring.batch import EventScorer, ScoringBatchTiming
from udfs.scoring.store import ScoredEvent

START_MS = 1_700_000_000_000
SETTINGS = load()
AT_ONCE = {
    "action": "notify_customer_service",
    "threshold": 0.0,
    "cool_down_hours": 0,
    "message": "{value}",
}
ANY_PURCHASE = rule_table(id="any_purchase", types=["purchase"], reason="ANY_PURCHASE", **AT_ONCE)
LIKELY = rule_table(
    id="likely", when="score > threshold", value="score", reason="LIKELY", **AT_ONCE
)


class ScoringHarness:
    """An EventScorer with an in-memory sink.

    rules: tables as in the rules file; none: the shipped rules. now_ms: the wall clock.
    """

    def __init__(
        self,
        model: FraudModel,
        *rules: dict[str, Any],
        now_ms: float = 0.0,
        erasures: ErasureTable | None = None,
        consents: ConsentTable | None = None,
    ):
        self.sink = MemoryScoringSink()
        self.timings: list[ScoringBatchTiming] = []
        rule_set = (
            RuleSet.model_validate({"version": "test", "rules": rules})
            if rules
            else read_rules(product_path(SETTINGS.rules))
        )
        feeds = fixed_feeds(SETTINGS, rule_set)
        if erasures is not None:
            feeds = feeds._replace(erasures=Fixed(erasures))
        if consents is not None:
            feeds = feeds._replace(consents=Fixed(consents))
        self._scorer = EventScorer(
            SETTINGS, model, self.sink, feeds, self.timings.append, now_ms=lambda: now_ms
        )

    def score(self, arrivals: list[Arrival], rows: Sequence[int]) -> list[list[dict[str, Any]]]:
        """Scores the arrivals at the positions `rows` as one batch; returns each one's alerts."""
        return self.score_texts(
            [user_of(arrivals, row) for row in rows], [event_parts(arrivals, row) for row in rows]
        )

    def score_texts(self, users: list[str], texts: list[str]) -> list[list[dict[str, Any]]]:
        """Scores rows of the view scoring_input; returns the alerts of each row."""
        sent = self._scorer.score(users, texts)
        return [[json.loads(record.split(WINDOW, 1)[1]) for record in records] for records in sent]


def user_of(arrivals: list[Arrival], row: int) -> str:
    event = arrivals[row]
    assert isinstance(event, Event)
    return event.user


def purchases(count: int, amount: float = 20.0, user: str = "u") -> list[Arrival]:
    """One user's purchases, a minute apart, with one device."""
    return [
        Event(f"{user}{n}", user, "purchase", START_MS + n * MINUTE_MS, amount, f"d-{user}")
        for n in range(count)
    ]


def random_arrivals(seed: int, count: int = 250) -> list[Arrival]:
    """`count` events of eight users in time order with few entities, some duplicates and labels."""
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


def assert_scored(row: ScoredEvent, decision: Decision) -> None:
    assert row.score == pytest.approx(decision.score, abs=1e-6), row
    assert set(row.active_rules) == decision.active_rules, row


def assert_matches_reference(sink: MemoryScoringSink, expected: dict[Key, Decision]) -> None:
    assert sink.scores.keys() == expected.keys()
    for key, decision in expected.items():
        row = sink.scores[key]
        assert_scored(row, decision)
        assert {flag.rule_id: flag.flag_id for flag in row.flags} == decision.flags, key
