"""Counts and decisions of drift in Cassandra."""

import numpy as np
import pytest
from cassandra.cluster import Session

from liveprofile.drift.store import CassandraDriftStore, DriftDecision, DriftState
from liveprofile.settings import CassandraSettings
from liveprofile.units import DAY_MS, HOUR_MS

START_MS = 19_700 * DAY_MS
DECISION = DriftDecision(START_MS, 900, True, '{"amount":[0.5,0.25],"alert_rate":[1.2,null]}')


@pytest.fixture
def store(settings: CassandraSettings, session: Session) -> CassandraDriftStore:
    return CassandraDriftStore(session, settings, histogram_ttl_s=3_600)


def test_totals_add_up_over_workers(store: CassandraDriftStore):
    counts_SW = np.arange(6).reshape(2, 3)
    store.write("r-1", START_MS, "w1", counts_SW + 7)
    store.write("r-1", START_MS, "w1", counts_SW)
    store.write("r-1", START_MS, "w2", counts_SW)
    store.write("r-1", START_MS + 23 * HOUR_MS, "w1", counts_SW)
    store.write("r-2", START_MS, "w1", counts_SW)
    assert store.totals("r-1", START_MS).tolist() == (2 * counts_SW).ravel().tolist()
    assert store.totals("r-1", START_MS + HOUR_MS) is None


def test_first_hour_is_the_first_one_written(store: CassandraDriftStore):
    assert store.first_hour(START_MS + HOUR_MS) == START_MS + HOUR_MS
    assert store.first_hour(START_MS + 2 * HOUR_MS) == START_MS + HOUR_MS
    assert store.first_hour(START_MS) == START_MS


def test_only_one_worker_decides_from_the_same_state(store: CassandraDriftStore):
    before = store.state("r-3")
    assert before == DriftState()
    after = DriftState(START_MS + HOUR_MS, START_MS, 0, '{"id": 1}', START_MS)
    assert store.decide("r-3", before, after, DECISION)
    assert not store.decide("r-3", before, after._replace(alert="{}"), DECISION)
    assert store.state("r-3") == after
    later = after._replace(decided_until_ms=START_MS + 2 * HOUR_MS, since_ms=None)
    second = DECISION._replace(start_ms=START_MS + HOUR_MS, drifting=False)
    assert store.decide("r-3", after, later, second)
    assert store.state("r-3") == later
    assert store.decisions("r-3", 5) == [second, DECISION]
    assert store.decisions("r-3", 1)[0].exceeded == {"amount"}
