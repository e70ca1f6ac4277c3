"""Stores the workers' drift counts and the decisions based on them in Cassandra.

Counts are one worker's running totals of an hour, stored under the worker's own name, so writing
them again changes nothing. A restarted worker has a new name. The events that it replays since the
last checkpoint are counted twice: a few seconds of an hour, which hardly change its shares.

One worker takes a decision: its row names the end of the latest decided period and is written only
if the row still is the one that was read (a lightweight transaction).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

import numpy as np
import orjson
from cassandra.cluster import ResultSet, Session
from cassandra.query import BatchStatement, BoundStatement

from liveprofile.rows.risk import RISK_HISTOGRAM
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import execute, from_ms, to_ms

_START = "start"  # a scope of drift_state with one entry: the first hour ever counted


class HourCounts(NamedTuple):
    """One worker's totals of an hour."""

    reference: str  # version of the drift reference
    hour_ms: int
    worker: str
    counts_SW: np.ndarray  # (S, W) events by series and bin: liveprofile.drift.histograms


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
        self._session = session
        prepare, keyspace, ttl_s = session.prepare, settings.keyspace, settings.flag_ttl_s
        counts = RISK_HISTOGRAM.insert(histogram_ttl_s, keyspace, time="")
        self._insert_counts = prepare(counts)
        self._insert_counts.is_idempotent = True
        self._select_counts = prepare(
            f"SELECT counts FROM {keyspace}.risk_histogram"
            " WHERE day = ? AND reference = ? AND hour >= ? AND hour < ?"
        )
        self._select_first = prepare(
            f"SELECT start FROM {keyspace}.drift_state WHERE scope = '{_START}'"
            " ORDER BY start ASC LIMIT 1"
        )
        self._insert_first = prepare(
            f"INSERT INTO {keyspace}.drift_state (scope, start) VALUES ('{_START}', ?)"
        )
        self._select_state = prepare(
            "SELECT decided_until, since, calm_periods, decided_by, decided_at, alert, sent"
            f" FROM {keyspace}.drift_state WHERE scope = ? LIMIT 1"
        )
        self._update_state = prepare(
            f"UPDATE {keyspace}.drift_state USING TTL {ttl_s} SET decided_until = ?, since = ?,"
            " calm_periods = ?, decided_by = ?, decided_at = ?, alert = ?, sent = ?"
            " WHERE scope = ? IF decided_until = ?"
        )
        self._insert_decision = prepare(
            f"INSERT INTO {keyspace}.drift_state (scope, start, events, drifting, distances)"
            f" VALUES (?, ?, ?, ?, ?) USING TTL {ttl_s}"
        )
        self._select_decisions = prepare(
            f"SELECT start, events, drifting, distances FROM {keyspace}.drift_state"
            " WHERE scope = ? LIMIT ?"
        )
        self._mark_sent = prepare(
            f"UPDATE {keyspace}.drift_state USING TTL {ttl_s} SET sent = true WHERE scope = ?"
            " IF decided_until = ?"
        )

    def write(self, rows: Sequence[HourCounts]) -> None:
        for row in rows:
            values = (
                _day(row.hour_ms),
                row.reference,
                from_ms(row.hour_ms),
                row.worker,
                row.counts_SW.astype(">u4").tobytes(),
            )
            self._execute(self._insert_counts.bind(values))

    def totals(self, reference: str, start_ms: int, end_ms: int) -> np.ndarray | None:
        """Returns the (S * W,) counts of all workers over hours of one day; None for no counts."""
        values = (_day(start_ms), reference, from_ms(start_ms), from_ms(end_ms))
        counts = [
            np.frombuffer(row.counts, ">u4").astype(np.int64)
            for row in self._execute(self._select_counts.bind(values))
        ]
        return np.sum(counts, axis=0) if counts else None

    def first_hour(self, hour_ms: int) -> int:
        """Returns the first hour ever counted, with any reference; `hour_ms` if that is earlier."""
        row = self._execute(self._select_first.bind(())).one()
        if row is not None and to_ms(row.start) <= hour_ms:
            return to_ms(row.start)
        self._execute(self._insert_first.bind((from_ms(hour_ms),)))
        return hour_ms

    def state(self, scope: str) -> DriftState:
        row = self._execute(self._select_state.bind((scope,))).one()
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
        update = (
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
        batch.add(self._update_state.bind(update))
        insert = (
            scope,
            from_ms(decision.start_ms),
            decision.events,
            decision.drifting,
            decision.distances,
        )
        batch.add(self._insert_decision.bind(insert))
        return self._execute(batch).was_applied

    def decisions(self, scope: str, count: int) -> list[DriftDecision]:
        """Returns the latest decisions, newest first."""
        return [
            DriftDecision(to_ms(row.start), row.events, row.drifting, row.distances)
            for row in self._execute(self._select_decisions.bind((scope, count)))
        ]

    def mark_sent(self, scope: str, state: DriftState) -> None:
        """Marks the alert of `state` as sent, unless there is a newer state."""
        self._execute(self._mark_sent.bind((scope, from_ms(state.decided_until_ms))))

    def _execute(self, statement: BoundStatement | BatchStatement) -> ResultSet:
        return execute(self._session, statement)


def _day(time_ms: int) -> date:
    return from_ms(time_ms).date()


def _timestamp(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else from_ms(time_ms)
