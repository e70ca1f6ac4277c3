"""The drift store in dicts, for measurements and tests without Cassandra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.scoring.drift_store import Decision, HourCounts, State


class MemoryDriftStore:
    """The same semantics in dicts, for tests below the services' level; workers may share it."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int, str], np.ndarray] = {}
        self.states: dict[str, State] = {}
        self._decisions: dict[str, list[Decision]] = {}
        self._first_ms: int | None = None

    def write(self, rows: Sequence[HourCounts]) -> None:
        for row in rows:
            self.counts[row.reference, row.hour_ms, row.worker] = row.counts_SW

    def totals(self, reference: str, start_ms: int, end_ms: int) -> np.ndarray | None:
        found = [
            counts_SW.ravel()
            for (of, hour_ms, _), counts_SW in self.counts.items()
            if of == reference and start_ms <= hour_ms < end_ms
        ]
        return np.sum(found, axis=0) if found else None

    def first_hour(self, hour_ms: int) -> int:
        self._first_ms = hour_ms if self._first_ms is None else min(self._first_ms, hour_ms)
        return self._first_ms

    def state(self, scope: str) -> State:
        return self.states.get(scope, State())

    def decide(self, scope: str, before: State, after: State, decision: Decision) -> bool:
        if self.state(scope).decided_until_ms != before.decided_until_ms:
            return False
        self.states[scope] = after
        self._decisions.setdefault(scope, []).append(decision)
        return True

    def decisions(self, scope: str, count: int) -> list[Decision]:
        return self._decisions.get(scope, [])[: -count - 1 : -1]

    def confirm(self, scope: str, state: State) -> None:
        if self.state(scope).decided_until_ms == state.decided_until_ms:
            self.states[scope] = self.states[scope]._replace(sent=True)
