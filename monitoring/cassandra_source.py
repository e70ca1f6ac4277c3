"""What Cassandra knows: its nodes, drift of the fraud model's inputs, cases of customer service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import orjson
from cassandra.cluster import Session

from liveprofile.errors import ServiceError
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage import connection
from liveprofile.storage.cql import execute
from liveprofile.storage.queries import scan_ring
from liveprofile.units import SECOND_MS
from monitoring.catalogue import Readings
from services import operations
from udfs.scoring.drift_store import DriftDecision, DriftState

SCAN_INTERVAL_S = 300.0  # between two scans of drift and cases

CASE_STATES = ("open", "closed")
PROBE = "SELECT key FROM system.local"


class CassandraSource:
    """Keeps a connection, so that an outage or a lost node is seen between two scans.

    clock_s: monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        connect: Callable[[CassandraSettings], Session] = connection.connect,
        scan: Callable[[Settings, Session], Readings] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self._settings, self._connect, self._clock_s = settings, connect, clock_s
        self._scan = scan or scan_tables
        self._session: Session | None = None
        self._scanned, self._scan_due_s = Readings(), clock_s()

    def read(self) -> Readings:
        """The nodes, with the tables as of the last scan. Raises ServiceError."""
        if self._session is None:
            self._session = self._connect(self._settings.cassandra)
        try:
            execute(self._session, PROBE)
            if self._clock_s() >= self._scan_due_s:
                self._scanned = self._scan(self._settings, self._session)
                self._scan_due_s = self._clock_s() + SCAN_INTERVAL_S
        except ServiceError:
            self.close()
            raise
        readings = Readings()
        hosts = self._session.cluster.metadata.all_hosts()
        down = sum(host.is_up is False for host in hosts)  # None: not known
        readings.add("cassandra_nodes", len(hosts) - down, "up")
        readings.add("cassandra_nodes", down, "down")
        return readings.with_those_of(self._scanned)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            connection.close(session)


def scan_tables(settings: Settings, session: Session) -> Readings:
    """Drift and cases. Raises ServiceError."""
    readings = Readings()
    _read_drift(readings, settings, session)
    rows = scan_ring(session, "SELECT state FROM risk_case")
    add_cases(readings, Counter(row.state for row in rows))
    return readings


def _read_drift(readings: Readings, settings: Settings, session: Session) -> None:
    """Nothing if the fraud model has no reference, as `liveprofile risk drift` says."""
    found = operations.drift(session, settings, 1) if settings.scoring.enabled else None
    for kind, (state, decisions) in found.periods.items() if found else ():
        add_drift(readings, kind, state, decisions)


def add_drift(
    readings: Readings, kind: str, state: DriftState, decisions: Sequence[DriftDecision]
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
