"""What the workers counted, and what was decided by it: in Cassandra, or in memory for tests.

Counts are a worker's running totals of an hour under the worker's own name, so that writing them
again changes nothing. A worker that starts anew has a new name; what it replays since the last
checkpoint is counted twice, a few seconds of an hour, which its shares hardly show.

A decision is taken by one worker: its row names the period up to which all is decided, and is
written on the condition that it is still the one that was read (a lightweight transaction).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple, Protocol

import numpy as np
import orjson
from cassandra.cluster import ResultSet, Session
from cassandra.query import BatchStatement, BoundStatement

from liveprofile.config import CassandraSettings
from liveprofile.storage.cql import execute, from_ms, to_ms
from udfs.cassandra.requests import Requests

_START = "start"  # the scope whose one entry is the first hour of all


class HourCounts(NamedTuple):
    """One worker's totals of an hour. counts_SW: liveprofile.drift.histograms."""

    reference: str  # its version
    hour_ms: int
    worker: str
    counts_SW: np.ndarray


class State(NamedTuple):
    """Where a scope stands after its latest decision."""

    decided_until_ms: int | None = None  # end of the latest period; None: no decision yet
    since_ms: int | None = None  # start of the first period that drifted; None: none does
    calm_periods: int = 0  # in a row, while drifting
    by: str = ""  # the worker
    decided_at_ms: int = 0  # of the clock
    alert: str = ""  # the last message
    sent: bool = True  # it surely was


class Decision(NamedTuple):
    """One entry of a scope's history."""

    start_ms: int
    events: int
    drifting: bool
    distances: str  # JSON: {series: [value, limit]}, the limit null if there is none

    @property
    def above(self) -> set[str]:
        """Names of what was above its limit."""
        found = orjson.loads(self.distances).items()
        return {name for name, (value, limit) in found if limit is not None and value > limit}


class DriftStore(Protocol):
    """Every method raises StoreError or ServiceError if Cassandra doesn't answer."""

    def write(self, rows: Sequence[HourCounts]) -> None:
        """Begins to write; done for sure when the next call of any method returns."""

    def totals(self, reference: str, start_ms: int, end_ms: int) -> np.ndarray | None:
        """(S * W,) counts of all workers over hours of one day, None if there are none."""

    def first_hour(self, hour_ms: int) -> int:
        """The first hour that was ever counted, by any reference; hour_ms if that is earlier."""

    def state(self, scope: str) -> State: ...

    def decide(self, scope: str, before: State, after: State, decision: Decision) -> bool:
        """Stores both, if the state still is `before`; else returns False."""

    def decisions(self, scope: str, count: int) -> list[Decision]:
        """The latest, newest first."""

    def confirm(self, scope: str, state: State) -> None:
        """Notes that the state's alert was sent, unless there is a newer state."""


class CassandraDriftStore:
    """Tables risk_histogram and drift_state. session: of the event store, which closes it."""

    def __init__(self, session: Session, settings: CassandraSettings, histogram_ttl_s: int):
        self._session = session
        self._writes = Requests(session, settings, "write")
        prepare, keyspace, ttl_s = session.prepare, settings.keyspace, settings.flag_ttl_s
        self._insert_counts = prepare(
            f"INSERT INTO {keyspace}.risk_histogram (day, reference, hour, worker, counts)"
            f" VALUES (?, ?, ?, ?, ?) USING TTL {histogram_ttl_s}"
        )
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
        self._confirm = prepare(
            f"UPDATE {keyspace}.drift_state USING TTL {ttl_s} SET sent = true WHERE scope = ?"
            " IF decided_until = ?"
        )

    def write(self, rows: Sequence[HourCounts]) -> None:
        self._writes.drain()
        for row in rows:
            self._writes.submit(
                self._insert_counts.bind(
                    (
                        _day(row.hour_ms), row.reference, from_ms(row.hour_ms), row.worker,
                        row.counts_SW.astype(">u4").tobytes(),
                    )
                )
            )  # fmt: skip

    def totals(self, reference: str, start_ms: int, end_ms: int) -> np.ndarray | None:
        self._writes.drain()
        values = (_day(start_ms), reference, from_ms(start_ms), from_ms(end_ms))
        found = [
            np.frombuffer(row.counts, ">u4").astype(np.int64)
            for row in self._execute(self._select_counts.bind(values))
        ]
        return np.sum(found, axis=0) if found else None

    def first_hour(self, hour_ms: int) -> int:
        row = self._execute(self._select_first.bind(())).one()
        if row is not None and to_ms(row.start) <= hour_ms:
            return to_ms(row.start)
        self._execute(self._insert_first.bind((from_ms(hour_ms),)))
        return hour_ms

    def state(self, scope: str) -> State:
        row = self._execute(self._select_state.bind((scope,))).one()
        if row is None or row.decided_until is None:
            return State()
        return State(
            to_ms(row.decided_until),
            None if row.since is None else to_ms(row.since),
            row.calm_periods, row.decided_by, to_ms(row.decided_at), row.alert, row.sent,
        )  # fmt: skip

    def decide(self, scope: str, before: State, after: State, decision: Decision) -> bool:
        batch = BatchStatement()
        batch.add(
            self._update_state.bind(
                (
                    from_ms(after.decided_until_ms), _moment(after.since_ms), after.calm_periods,
                    after.by, from_ms(after.decided_at_ms), after.alert, after.sent, scope,
                    _moment(before.decided_until_ms),
                )
            )
        )  # fmt: skip
        batch.add(
            self._insert_decision.bind(
                (
                    scope, from_ms(decision.start_ms), decision.events, decision.drifting,
                    decision.distances,
                )
            )
        )  # fmt: skip
        return self._execute(batch).was_applied

    def decisions(self, scope: str, count: int) -> list[Decision]:
        return [
            Decision(to_ms(row.start), row.events, row.drifting, row.distances)
            for row in self._execute(self._select_decisions.bind((scope, count)))
        ]

    def confirm(self, scope: str, state: State) -> None:
        self._execute(self._confirm.bind((scope, from_ms(state.decided_until_ms))))

    def _execute(self, statement: BoundStatement | BatchStatement) -> ResultSet:
        return execute(self._session, statement)


def _day(time_ms: int) -> date:
    return from_ms(time_ms).date()


def _moment(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else from_ms(time_ms)
