"""Monitors the drift of the fraud model's inputs and scores across all workers.

Each worker counts its own events, writes the counts to the drift store, and decides for all workers
whether a finished hour or day drifted, unless another worker has decided before. The store is used
by a thread of its own: while it is slow or away, scoring goes on and drift is decided later.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import orjson

from liveprofile.alerts.cloud_events import DEFAULT_SOURCE
from liveprofile.drift.alert import DriftAlert
from liveprofile.drift.comparison import DriftVerdict, assess_drift
from liveprofile.drift.reference import LATENESS_MS, DriftReference, HourlyHistograms
from liveprofile.errors import ServiceError
from liveprofile.units import DAY_MS, HOUR_MS
from udfs.scoring.drift_store import (
    PERIOD_MS,
    CassandraDriftStore,
    DriftDecision,
    DriftState,
    decision_scope,
)

log = logging.getLogger(__name__)

WRITE_EVERY_S, CHECK_EVERY_S = 5.0, 60.0
# After this time an alert that its worker has not marked as sent may be lost: the worker may have
# failed before it sent the alert.
RESEND_AFTER_MS = 180_000
# Periods that wait for a decision. A job that catches up decides on the latest ones only.
MAX_PENDING_PERIODS = 48
# Drift starts if a distance exceeds its limit by this factor, or if the same distance exceeds its
# limit in two consecutive periods: of some 700 hours a month and 33 distributions, one exceeds its
# limit now and then by chance.
IMMEDIATE_FACTOR = {"hour": 2.0, "day": 1.0}
CALM_PERIODS = {"hour": 2, "day": 1}  # consecutive calm periods that end drift


_AlertStates = list[tuple[str, DriftState]]  # scope, and the state whose alert must be sent


class DriftPeriod(NamedTuple):
    """An hour or a day of event time."""

    kind: Literal["hour", "day"]
    start_ms: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + PERIOD_MS[self.kind]


class DriftMonitor:
    """Monitors the events of one worker.

    names: of the columns that `observe` gets.
    after_days: days of counted events before the first decision. In a new job the users' histories
    are shorter than in the reference, which looks like drift.
    clock: returns epoch seconds.
    executor: runs one task at a time; None: a thread.
    event_source: of alerts.
    """

    def __init__(
        self,
        reference: DriftReference,
        model_version: str,
        names: list[str],
        store: CassandraDriftStore,
        after_days: float,
        clock: Callable[[], float] = time.time,
        executor: Executor | None = None,
        event_source: str = DEFAULT_SOURCE,
    ):
        self._reference, self._model_version, self._store = reference, model_version, store
        self._after_ms = round(after_days * DAY_MS)
        self._clock, self._event_source = clock, event_source
        self._worker = uuid.uuid4().hex
        self._histograms = HourlyHistograms(reference, names)
        self._executor = executor or ThreadPoolExecutor(1, "drift")
        self._task: Future[_AlertStates] | None = None
        self._written_s = self._checked_s = clock()
        self._returned: _AlertStates = []  # by `observe` since the last check
        # Only the task uses these.
        self._unwritten: dict[int, np.ndarray] = {}  # totals by hour
        self._open: set[DriftPeriod] = set()
        self._pending: deque[DriftPeriod] = deque(maxlen=MAX_PENDING_PERIODS)

    def observe(
        self,
        x_nF: np.ndarray,
        score_n: np.ndarray,
        event_ms_n: np.ndarray,
        user_n: Sequence[Hashable],
        rows: Sequence[int],
    ) -> list[str]:
        """Counts the given rows of a batch and returns CloudEvents to send.

        x_nF: (n, F) the columns `names`; score_n, event_ms_n, user_n: (n,). The decisions behind
        the CloudEvents are stored already. Does not wait for the store.
        """
        self._histograms.add(x_nF, score_n, event_ms_n, user_n, rows)
        finished = self._finished_task()
        now_s = self._clock()
        if self._task is None and now_s - self._written_s >= WRITE_EVERY_S:
            self._written_s = now_s
            confirmed = None
            if now_s - self._checked_s >= CHECK_EVERY_S:
                self._checked_s = now_s
                # Without those that this call returns: no checkpoint has covered them yet.
                confirmed, self._returned = dict(self._returned), []
            self._task = self._executor.submit(
                self._write_and_check,
                self._histograms.take_changed(),
                self._histograms.max_event_ms,
                confirmed,
            )
            finished += self._finished_task()
        self._returned += finished
        return [state.alert for _, state in finished]

    def close(self) -> None:
        """Does not wait for the store: what is missing there is written after the next start."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _finished_task(self) -> _AlertStates:
        """Returns what the task has returned if it has just finished, else nothing."""
        if self._task is None or not self._task.done():
            return []
        finished, self._task = self._task.result(), None
        return finished

    def _write_and_check(
        self,
        changed: dict[int, np.ndarray],
        max_event_ms: int,
        confirmed: Mapping[str, DriftState] | None,
    ) -> _AlertStates:
        """Runs in the thread.

        confirmed: by scope the states whose alerts were sent since the last check; None: no check
        is due.
        """
        self._unwritten |= changed
        returned: _AlertStates = []
        try:
            self._write(max_event_ms)
            if confirmed is not None:
                self._check(max_event_ms, confirmed, returned)
        except ServiceError as error:
            # The next task writes the counts and decides. An alert that was stored is sent again.
            log.warning("drift monitoring is behind: %s", error)
        return returned

    def _write(self, max_event_ms: int) -> None:
        for hour_ms, counts_SW in self._unwritten.items():
            self._store.write(self._reference.version, hour_ms, self._worker, counts_SW)
            self._open |= {
                DriftPeriod("hour", hour_ms),
                DriftPeriod("day", hour_ms // DAY_MS * DAY_MS),
            }
        self._unwritten.clear()
        finished = {period for period in self._open if period.end_ms + LATENESS_MS <= max_event_ms}
        self._open -= finished
        self._pending.extend(sorted(finished, key=lambda period: period.end_ms))

    def _check(
        self, max_event_ms: int, confirmed: Mapping[str, DriftState], returned: _AlertStates
    ) -> None:
        """Adds the states whose alerts must be sent to `returned`."""
        self._confirm_and_resend(confirmed, returned)
        if not self._pending:
            return
        # Taken from the latest hour, because a single event may carry any time in the past.
        hour_ms = max_event_ms // HOUR_MS * HOUR_MS
        decided_from_ms = self._store.first_hour(hour_ms) + self._after_ms
        while self._pending:
            period = self._pending[0]
            if period.start_ms >= decided_from_ms:
                self._decide(period, returned)
            self._pending.popleft()

    def _decide(self, period: DriftPeriod, returned: _AlertStates) -> None:
        """Decides on a period unless that is done; adds the state if drift starts or ends."""
        scope = decision_scope(self._reference, period.kind)
        before = self._store.state(scope)
        if before.decided_until_ms is not None and before.decided_until_ms >= period.end_ms:
            return
        counts = self._store.totals(self._reference.version, period.start_ms, period.end_ms)
        if counts is None:
            return
        reference = self._reference.daily if period.kind == "day" else self._reference
        verdict = assess_drift(reference, counts.reshape(len(reference.series), -1))
        if verdict is None:
            return
        after, alert = self._next_state(scope, before, period, verdict)
        distances = {
            distance.name: [distance.value, distance.limit] for distance in verdict.distances
        }
        decision = DriftDecision(
            period.start_ms,
            verdict.events,
            after.since_ms is not None,
            orjson.dumps(distances).decode(),
        )
        if not self._store.decide(scope, before, after, decision) or alert is None:
            return  # another worker decided first, or drift neither starts nor ends
        returned.append((scope, after))
        log.warning("model %s: drift %s: %s", self._model_version, alert.state, alert.sentence())

    def _next_state(
        self, scope: str, before: DriftState, period: DriftPeriod, verdict: DriftVerdict
    ) -> tuple[DriftState, DriftAlert | None]:
        since_ms, calm_periods, change = before.since_ms, 0, ""
        if since_ms is None:
            since_ms = self._drift_start_ms(scope, period, verdict)
            change = "" if since_ms is None else "started"
        elif not verdict.drifted:
            calm_periods = before.calm_periods + 1 if verdict.calm else 0
            if calm_periods >= CALM_PERIODS[period.kind]:
                since_ms, change = None, "ended"
        after = before._replace(
            decided_until_ms=period.end_ms,
            since_ms=since_ms,
            calm_periods=calm_periods,
            decided_by=self._worker,
            decided_at_ms=round(self._clock() * 1_000),
        )
        if not change:
            return after, None
        alert = DriftAlert(
            change,
            period.kind,
            period.start_ms,
            period.end_ms,
            before.since_ms if since_ms is None else since_ms,
            self._model_version,
            self._reference.version,
            verdict.events,
            verdict.reasons,
            self._event_source,
        )
        return after._replace(alert=alert.cloud_event().decode(), sent=False), alert

    def _drift_start_ms(self, scope: str, period: DriftPeriod, verdict: DriftVerdict) -> int | None:
        """Returns the start of the first drifted period, or None if there is no drift."""
        if verdict.exceeds(IMMEDIATE_FACTOR[period.kind]):
            return period.start_ms
        for latest in self._store.decisions(scope, 1) if verdict.drifted else ():
            if latest.exceeded & verdict.drifted:
                return latest.start_ms
        return None

    def _confirm_and_resend(
        self, confirmed: Mapping[str, DriftState], returned: _AlertStates
    ) -> None:
        """Marks alerts as sent, and adds the states whose alerts must be sent again.

        A checkpoint has covered the `confirmed` ones by now. An alert that no worker has marked as
        sent within RESEND_AFTER_MS is sent again.
        """
        now_ms = self._clock() * 1_000
        for kind in PERIOD_MS:
            scope = decision_scope(self._reference, kind)
            state = self._store.state(scope)
            if state.sent:
                continue
            if scope in confirmed and confirmed[scope].alert == state.alert:
                self._store.mark_sent(scope, state)
            elif now_ms - state.decided_at_ms > RESEND_AFTER_MS:
                returned.append((scope, state))
