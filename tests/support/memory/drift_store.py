"""In-memory drift store, and an executor for its writes.

Shapes: counts_SW has S series and W bins, as in udfs.scoring.drift_store.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from udfs.scoring.drift_store import DriftDecision, DriftState


class MemoryDriftStore:
    """Has the semantics of CassandraDriftStore; several workers can share one."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int, str], np.ndarray] = {}
        self.states: dict[str, DriftState] = {}
        self._decisions: dict[str, list[DriftDecision]] = {}
        self._first_ms: int | None = None

    def write(self, reference: str, hour_ms: int, worker: str, counts_SW: np.ndarray) -> None:
        self.counts[reference, hour_ms, worker] = counts_SW

    def totals(self, reference: str, start_ms: int, end_ms: int) -> np.ndarray | None:
        matching = [
            counts_SW.ravel()
            for (counts_reference, hour_ms, _), counts_SW in self.counts.items()
            if counts_reference == reference and start_ms <= hour_ms < end_ms
        ]
        return np.sum(matching, axis=0) if matching else None

    def first_hour(self, hour_ms: int) -> int:
        self._first_ms = hour_ms if self._first_ms is None else min(self._first_ms, hour_ms)
        return self._first_ms

    def state(self, scope: str) -> DriftState:
        return self.states.get(scope, DriftState())

    def decide(
        self, scope: str, before: DriftState, after: DriftState, decision: DriftDecision
    ) -> bool:
        if self.state(scope).decided_until_ms != before.decided_until_ms:
            return False
        self.states[scope] = after
        self._decisions.setdefault(scope, []).append(decision)
        return True

    def decisions(self, scope: str, count: int) -> list[DriftDecision]:
        return self._decisions.get(scope, [])[: -count - 1 : -1]

    def mark_sent(self, scope: str, state: DriftState) -> None:
        if self.state(scope).decided_until_ms == state.decided_until_ms:
            self.states[scope] = self.states[scope]._replace(sent=True)


class InlineExecutor(Executor):
    """Runs a task in `submit`, so that the caller knows when."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done
