"""The scoring pipeline scores what users allow and forgets those who are erased.

The reference sees all events, or those without the past of erased users.
"""

import random
from typing import Any

import pytest

from liveprofile.consent.changes import ConsentChange, ConsentTable
from liveprofile.privacy.erasures import ErasureTable
from models.fraud.model import FraudModel
from tests.reference.consents import is_allowed
from tests.reference.entity_features import Event
from tests.reference.scoring import decide
from tests.support.scoring_harness import (
    SETTINGS,
    ScoringHarness,
    random_arrivals,
)


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
        assert row.score == pytest.approx(expected[key].score, abs=1e-6), key
        assert set(row.active_rules) == expected[key].active_rules, key
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
        assert row.score == pytest.approx(expected[key].score, abs=1e-6), key
        assert set(row.active_rules) == expected[key].active_rules, key
        if key[0] in erased:  # flags of others depend on those that they had before
            assert {flag.rule_id for flag in row.flags} == set(expected[key].flags), key
    whole = scorer.sink.scores
    of_erased = {key: row for key, row in before.items() if key[0] in erased}
    assert len(of_erased) > 20 and {key: whole[key] for key in of_erased} == of_erased
    assert sum(user in erased for user, _, _ in kept) > 20
