"""Scored events for tests of scoring sinks."""

from liveprofile.rules.flags import Flag
from liveprofile.units import HOUR_MS
from tests.support.rows import profile_rows
from udfs.scoring.store import CassandraScoringStore, ScoredEvent

START_MS = 1_700_000_000_000


def scored_event(user_id: str = "u", hour: int = 0, **changes: object) -> ScoredEvent:
    """An event `hour` hours after START_MS; `changes` overrides fields."""
    return ScoredEvent(
        user_id=user_id,
        event_id=f"e{hour}",
        event_ms=START_MS + hour * HOUR_MS,
        event_type="purchase",
        amount=20.25,
        score=0.125,
        model_version="model-1",
        rules_version="rules-1",
        active_rules=[],
        entities=("d1", "4813:1157", "", "", "a1"),
        flags=[],
    )._replace(**changes)


def flag(rule_id: str = "a", hour: int = 0, **changes: object) -> Flag:
    """A flag of the event that `scored_event` returns for this hour."""
    return profile_rows.flag(rule_id, **{"event_id": f"e{hour}", **changes})


def write_and_flush(sink: CassandraScoringStore, *rows: ScoredEvent) -> None:
    sink.writer.write(rows)
    sink.writer.flush()
