"""Stores the workers' drift counts and the decisions based on them in Cassandra.

Counts are one worker's running totals of an hour, stored under the worker's own name, so writing
them again changes nothing. A restarted worker has a new name. The events that it replays since the
last checkpoint are counted twice: a few seconds of an hour, which hardly change its shares.

One worker takes a decision: its row names the end of the latest decided hour and is written only
if the row still is the one that was read (a lightweight transaction).
"""

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import orjson
from cassandra.cluster import ResultSet, Session
from cassandra.query import BatchStatement, BoundStatement

from liveprofile.rows.risk import RISK_HISTOGRAM
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import execute, from_ms, prepare, to_ms

_START = "start"  # a scope of drift_state with one entry: the first hour ever counted


class DriftState(NamedTuple):
    """State of a reference after its latest decision."""

    decided_until_ms: int | None = None  # end of the latest decided hour; None: no decision yet
    since_ms: int | None = None  # start of the first drifted hour; None: no drift
    calm_hours: int = 0  # consecutive ones, while drifting
    alert: str = ""  # the latest CloudEvent
    alert_at_ms: int = 0  # when it was decided, by the clock


class Distance(NamedTuple):
    """Of a series. limit: None if there is none."""

    name: str
    value: float
    limit: float | None

    @property
    def relative(self) -> float:
        """In limits; 0 without one."""
        return 0.0 if self.limit is None else self.value / self.limit


class DriftDecision(NamedTuple):
    """The decision about one hour."""

    start_ms: int  # of the hour
    events: int
    drifting: bool
    distances: str  # JSON: {series: [value, limit]}; limit null if there is none

    @property
    def exceeded(self) -> set[str]:
        """The names of the series whose distance exceeds its limit."""
        return {each.name for each in self.relative if each.relative > 1}

    @property
    def relative(self) -> list[Distance]:
        """The distances; those closest to their limits, or furthest beyond, are first."""
        distances = [Distance(name, *pair) for name, pair in orjson.loads(self.distances).items()]
        return sorted(distances, key=lambda each: -each.relative)


class CassandraDriftStore:
    """The tables risk_histogram and drift_state. session: closed by its owner.

    Every method raises ServiceError if Cassandra does not answer.
    """

    def __init__(self, session: Session, settings: CassandraSettings, histogram_ttl_s: int):
        self._session, self._histogram_ttl_s = session, histogram_ttl_s
        self._keyspace, self._ttl_s = settings.keyspace, settings.flag_ttl_s
        self._table = f"{settings.keyspace}.drift_state"

    def write(self, reference: str, hour_ms: int, worker: str, counts_SW: np.ndarray) -> None:
        """Stores one worker's totals of an hour.

        reference: version of the drift reference. counts_SW: (S, W) events by series and bin
        (liveprofile.drift.reference).
        """
        hour, counts = from_ms(hour_ms), counts_SW.astype(">u4").tobytes()
        insert = RISK_HISTOGRAM.insert(self._histogram_ttl_s, self._keyspace, time="")
        statement = self._bound(insert, hour.date(), reference, hour, worker, counts)
        statement.is_idempotent = True
        execute(self._session, statement)

    def totals(self, reference: str, hour_ms: int) -> np.ndarray | None:
        """Returns the (S * W,) counts of all workers in an hour; None for no counts."""
        hour = from_ms(hour_ms)
        rows = self._read(
            f"SELECT counts FROM {self._keyspace}.risk_histogram"
            " WHERE day = ? AND reference = ? AND hour = ?",
            hour.date(),
            reference,
            hour,
        )
        counts = [np.frombuffer(row.counts, ">u4").astype(np.int64) for row in rows]
        return np.sum(counts, axis=0) if counts else None

    def first_hour(self, hour_ms: int) -> int:
        """Returns the first hour ever counted, with any reference; `hour_ms` if that is earlier."""
        query = f"SELECT start FROM {self._table} WHERE scope = ? ORDER BY start ASC LIMIT 1"
        row = self._read(query, _START).one()
        if row is not None and to_ms(row.start) <= hour_ms:
            return to_ms(row.start)
        insert = f"INSERT INTO {self._table} (scope, start) VALUES (?, ?)"
        self._read(insert, _START, from_ms(hour_ms))
        return hour_ms

    def state(self, reference: str) -> DriftState:
        row = self._read(
            "SELECT decided_until, since, calm_hours, alert, alert_at"
            f" FROM {self._table} WHERE scope = ? LIMIT 1",
            reference,
        ).one()
        if row is None or row.decided_until is None:
            return DriftState()
        return DriftState(
            to_ms(row.decided_until),
            None if row.since is None else to_ms(row.since),
            row.calm_hours,
            row.alert,
            to_ms(row.alert_at),
        )

    def decide(
        self, reference: str, before: DriftState, after: DriftState, decision: DriftDecision
    ) -> bool:
        """Stores `after` and `decision` and returns True if the state still is `before`."""
        batch = BatchStatement()
        batch.add(
            self._bound(
                f"UPDATE {self._table} USING TTL {self._ttl_s} SET decided_until = ?, since = ?,"
                " calm_hours = ?, alert = ?, alert_at = ? WHERE scope = ? IF decided_until = ?",
                from_ms(after.decided_until_ms),
                _timestamp(after.since_ms),
                after.calm_hours,
                after.alert,
                from_ms(after.alert_at_ms),
                reference,
                _timestamp(before.decided_until_ms),
            )
        )
        batch.add(
            self._bound(
                f"INSERT INTO {self._table} (scope, start, events, drifting, distances)"
                f" VALUES (?, ?, ?, ?, ?) USING TTL {self._ttl_s}",
                reference,
                from_ms(decision.start_ms),
                *decision[1:],
            )
        )
        return execute(self._session, batch).was_applied

    def decisions(self, reference: str, count: int) -> list[DriftDecision]:
        """Returns the latest decisions, newest first."""
        rows = self._read(
            f"SELECT start, events, drifting, distances FROM {self._table} WHERE scope = ? LIMIT ?",
            reference,
            count,
        )
        return [DriftDecision(to_ms(start), *rest) for start, *rest in rows]

    def _read(self, query: str, *values: Any) -> ResultSet:
        return execute(self._session, self._bound(query, *values))

    def _bound(self, query: str, *values: Any) -> BoundStatement:
        return prepare(self._session, query).bind(values)


def _timestamp(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else from_ms(time_ms)
