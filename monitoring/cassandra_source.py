"""What Cassandra knows: drift of the fraud model's inputs, and cases of customer service."""

from __future__ import annotations

from collections import Counter

import orjson
from cassandra.cluster import Session

from liveprofile.config import Settings
from liveprofile.drift.reference import DriftReference
from liveprofile.resources import product_path
from liveprofile.storage.connection import open_session
from liveprofile.storage.queries import scan_ring
from liveprofile.units import SECOND_MS
from monitoring.catalogue import Readings
from udfs.scoring.drift_monitor import PERIOD_MS, decision_scope
from udfs.scoring.drift_store import CassandraDriftStore, DriftDecision, DriftState

CASE_STATES = ("open", "closed")


def read_cassandra(settings: Settings) -> Readings:
    """Readings of the keyspace. Raises ServiceError."""
    readings = Readings()
    with open_session(settings.cassandra) as session:
        _read_drift(readings, settings, session)
        rows = scan_ring(session, "SELECT state FROM risk_case")
        add_cases(readings, Counter(row.state for row in rows))
    return readings


def _read_drift(readings: Readings, settings: Settings, session: Session) -> None:
    """Nothing if the fraud model has no reference, as `liveprofile drift` says."""
    reference = DriftReference.load(product_path(settings.scoring.checkpoint))
    if reference is None or not settings.scoring.enabled:
        return
    store = CassandraDriftStore(session, settings.cassandra, settings.scoring.score_ttl_s)
    for kind in PERIOD_MS:
        scope = decision_scope(reference, kind)
        add_drift(readings, kind, store.state(scope), store.decisions(scope, 1))


def add_drift(
    readings: Readings, kind: str, state: DriftState, decisions: list[DriftDecision]
) -> None:
    """kind: "hour" or "day". decisions: the newest first."""
    readings.add("drift", float(state.since_ms is not None), kind)
    if state.decided_until_ms is not None:
        until_s = state.decided_until_ms / SECOND_MS
        readings.add("drift_evaluated_timestamp_seconds", until_s, kind)
    if decisions:
        for series, (distance, limit) in orjson.loads(decisions[0].distances).items():
            if limit:
                readings.add("drift_distance_ratio", distance / limit, kind, series)


def add_cases(readings: Readings, by_state: Counter[str]) -> None:
    for state in CASE_STATES:
        readings.add("cases", by_state[state], state)
