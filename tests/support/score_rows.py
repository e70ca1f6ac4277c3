"""Scored events for a store under test."""

from __future__ import annotations

from liveprofile.rules.flags import Flag
from liveprofile.units import HOUR_MS
from tests.support.profile_rows import flag as any_flag
from udfs.scoring.sink import ScoredEvent, ScoringSink

START_MS = 1_700_000_000_000


def scored(user_id: str = "u", at: int = 0, **changes: object) -> ScoredEvent:
    """An event of the hour `at`; `changes` overrides fields."""
    return ScoredEvent(
        user_id=user_id,
        event_id=f"e{at}",
        event_ms=START_MS + at * HOUR_MS,
        event_type="purchase",
        amount=20.25,
        score=0.125,
        model_version="model-1",
        rules_version="rules-1",
        active_rules=[],
        entities=("d1", "4813:1157", "", "", "a1"),
        flags=[],
    )._replace(**changes)


def flag(rule_id: str = "a", **changes: object) -> Flag:
    return any_flag(rule_id, event_id="e0", **changes)


def write(store: ScoringSink, *rows: ScoredEvent) -> None:
    store.begin(rows)
    store.wait()
