"""Stores the workers' drift counts and the decisions based on them in Cassandra.

Counts are one worker's running totals of an hour, stored under the worker's own name, so writing
them again changes nothing. A restarted worker has a new name. The events that it replays since the
last checkpoint are counted twice: a few seconds of an hour, which hardly change its shares.

One worker takes a decision: its row names the end of the latest decided period and is written only
if the row still is the one that was read (a lightweight transaction).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import orjson
from cassandra.cluster import ResultSet, Session
from cassandra.query import BatchStatement, BoundStatement

from liveprofile.drift.reference import DriftReference
from liveprofile.rows.risk import RISK_HISTOGRAM
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import execute, from_ms, prepare_once, to_ms
from liveprofile.units import DAY_MS, HOUR_MS

PERIOD_MS = {"hour": HOUR_MS, "day": DAY_MS}
_START = "start"  # a scope of drift_state with one entry: the first hour ever counted


def decision_scope(reference: DriftReference, kind: str) -> str:
    """Returns the key of a sequence of decisions: one per reference and kind of period."""
    return f"{reference.version}/{kind}"


class DriftState(NamedTuple):
    """State of a scope after its latest decision."""

    decided_until_ms: int | None = None  # end of the latest decided period; None: no decision yet
    since_ms: int | None = None  # start of the first drifted period; None: no drift
    calm_periods: int = 0  # consecutive ones, while drifting
    decided_by: str = ""  # the worker
    decided_at_ms: int = 0  # by the clock
    alert: str = ""  # the latest CloudEvent
    sent: bool = True  # whether a checkpoint has covered the alert


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
    """One entry of a scope's history."""

    start_ms: int  # of the period
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

    def totals(self, reference: str, start_ms: int, end_ms: int) -> np.ndarray | None:
        """Returns the (S * W,) counts of all workers over hours of one day; None for no counts."""
        start = from_ms(start_ms)
        rows = self._read(
            f"SELECT counts FROM {self._keyspace}.risk_histogram"
            " WHERE day = ? AND reference = ? AND hour >= ? AND hour < ?",
            *(start.date(), reference, start, from_ms(end_ms)),
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

    def state(self, scope: str) -> DriftState:
        row = self._read(
            "SELECT decided_until, since, calm_periods, decided_by, decided_at, alert, sent"
            f" FROM {self._table} WHERE scope = ? LIMIT 1",
            scope,
        ).one()
        if row is None or row.decided_until is None:
            return DriftState()
        return DriftState(
            to_ms(row.decided_until),
            None if row.since is None else to_ms(row.since),
            row.calm_periods,
            row.decided_by,
            to_ms(row.decided_at),
            row.alert,
            row.sent,
        )

    def decide(
        self, scope: str, before: DriftState, after: DriftState, decision: DriftDecision
    ) -> bool:
        """Stores `after` and `decision` and returns True if the state still is `before`."""
        batch = BatchStatement()
        batch.add(
            self._bound(
                f"UPDATE {self._table} USING TTL {self._ttl_s} SET decided_until = ?, since = ?,"
                " calm_periods = ?, decided_by = ?, decided_at = ?, alert = ?, sent = ?"
                " WHERE scope = ? IF decided_until = ?",
                from_ms(after.decided_until_ms),
                _timestamp(after.since_ms),
                after.calm_periods,
                after.decided_by,
                from_ms(after.decided_at_ms),
                after.alert,
                after.sent,
                scope,
                _timestamp(before.decided_until_ms),
            )
        )
        batch.add(
            self._bound(
                f"INSERT INTO {self._table} (scope, start, events, drifting, distances)"
                f" VALUES (?, ?, ?, ?, ?) USING TTL {self._ttl_s}",
                *(scope, from_ms(decision.start_ms), *decision[1:]),
            )
        )
        return execute(self._session, batch).was_applied

    def decisions(self, scope: str, count: int) -> list[DriftDecision]:
        """Returns the latest decisions, newest first."""
        rows = self._read(
            f"SELECT start, events, drifting, distances FROM {self._table} WHERE scope = ? LIMIT ?",
            *(scope, count),
        )
        return [DriftDecision(to_ms(start), *rest) for start, *rest in rows]

    def mark_sent(self, scope: str, state: DriftState) -> None:
        """Marks the alert of `state` as sent, unless there is a newer state."""
        self._read(
            f"UPDATE {self._table} USING TTL {self._ttl_s} SET sent = true WHERE scope = ?"
            " IF decided_until = ?",
            *(scope, from_ms(state.decided_until_ms)),
        )

    def _read(self, query: str, *values: Any) -> ResultSet:
        return execute(self._session, self._bound(query, *values))

    def _bound(self, query: str, *values: Any) -> BoundStatement:
        return prepare_once(self._session, query).bind(values)


def _timestamp(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else from_ms(time_ms)
