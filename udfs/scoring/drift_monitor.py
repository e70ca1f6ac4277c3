"""Monitors the drift of the fraud model's inputs and scores across all workers.

Each worker counts its own events, writes the counts to the drift store, and decides for all workers
whether a finished hour or day drifted, unless another worker has decided before.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import orjson

from liveprofile.drift.alert import DriftAlert
from liveprofile.drift.comparison import DriftVerdict, assess_drift
from liveprofile.drift.histograms import LATENESS_MS, HourlyHistograms
from liveprofile.drift.reference import DriftReference
from liveprofile.units import DAY_MS, HOUR_MS
from udfs.scoring.drift_store import DriftDecision, DriftState, DriftStore, HourCounts

log = logging.getLogger(__name__)

WRITE_EVERY_S, CHECK_EVERY_S = 5.0, 60.0
# After this time an alert that its worker has not marked as sent may be lost: the worker may have
# failed before it sent the alert.
RESEND_AFTER_MS = 180_000
# Periods that wait for a decision. A job that catches up decides on the latest ones only.
MAX_PENDING_PERIODS = 48
PERIOD_MS = {"hour": HOUR_MS, "day": DAY_MS}
# Drift starts if a distance exceeds its limit by this factor, or if the same distance exceeds its
# limit in two consecutive periods: of some 700 hours a month and 33 distributions, one exceeds its
# limit now and then by chance.
IMMEDIATE_FACTOR = {"hour": 2.0, "day": 1.0}
CALM_PERIODS = {"hour": 2, "day": 1}  # consecutive calm periods that end drift


class DriftPeriod(NamedTuple):
    """An hour or a day of event time."""

    kind: Literal["hour", "day"]
    start_ms: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + PERIOD_MS[self.kind]


def decision_scope(reference: DriftReference, kind: str) -> str:
    """Returns the key of a sequence of decisions: one per reference and kind of period."""
    return f"{reference.version}/{kind}"


class DriftMonitor:
    """Monitors the events of one worker.

    names: of the columns that `observe` gets.
    after_days: days of counted events before the first decision. In a new job the users' histories
    are shorter than in the reference, which looks like drift.
    clock: returns epoch seconds.
    """

    def __init__(
        self,
        reference: DriftReference,
        model_version: str,
        names: list[str],
        store: DriftStore,
        after_days: float,
        clock: Callable[[], float] = time.time,
    ):
        self._reference, self._model_version, self._store = reference, model_version, store
        self._after_ms = round(after_days * DAY_MS)
        self._clock = clock
        self._worker = uuid.uuid4().hex
        self._histograms = HourlyHistograms(reference, names)
        self._written_s = self._checked_s = clock()
        self._open: set[DriftPeriod] = set()
        self._pending: deque[DriftPeriod] = deque(maxlen=MAX_PENDING_PERIODS)
        # By scope: the state whose alert the last check returned for sending.
        self._returned: dict[str, DriftState] = {}

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
        the CloudEvents are stored already. Raises StoreError or ServiceError; the batch must then
        be replayed.
        """
        self._histograms.add(x_nF, score_n, event_ms_n, user_n, rows)
        now_s = self._clock()
        if now_s - self._written_s < WRITE_EVERY_S:
            return []
        self._written_s = now_s
        self._write()
        if now_s - self._checked_s < CHECK_EVERY_S:
            return []
        self._checked_s = now_s
        return self._check()

    def _write(self) -> None:
        changed = self._histograms.take_changed()
        self._store.write(
            [
                HourCounts(self._reference.version, hour_ms, self._worker, counts_SW)
                for hour_ms, counts_SW in changed.items()
            ]
        )
        for hour_ms in changed:
            self._open |= {
                DriftPeriod("hour", hour_ms),
                DriftPeriod("day", hour_ms // DAY_MS * DAY_MS),
            }
        finished = {
            period
            for period in self._open
            if period.end_ms + LATENESS_MS <= self._histograms.max_event_ms
        }
        self._open -= finished
        self._pending.extend(sorted(finished, key=lambda period: period.end_ms))

    def _check(self) -> list[str]:
        alerts = self._confirm_and_resend()
        if not self._pending:
            return alerts
        # Taken from the latest hour, because a single event may carry any time in the past.
        hour_ms = self._histograms.max_event_ms // HOUR_MS * HOUR_MS
        decided_from_ms = self._store.first_hour(hour_ms) + self._after_ms
        while self._pending:
            period = self._pending[0]
            if period.start_ms >= decided_from_ms:
                alerts += self._decide(period)
            self._pending.popleft()
        return alerts

    def _decide(self, period: DriftPeriod) -> list[str]:
        """Decides on a period unless that is done; returns the alert if drift starts or ends."""
        scope = decision_scope(self._reference, period.kind)
        before = self._store.state(scope)
        if before.decided_until_ms is not None and before.decided_until_ms >= period.end_ms:
            return []
        counts = self._store.totals(self._reference.version, period.start_ms, period.end_ms)
        if counts is None:
            return []
        reference = self._reference.daily if period.kind == "day" else self._reference
        verdict = assess_drift(reference, counts.reshape(len(reference.series), -1))
        if verdict is None:
            return []
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
            return []  # another worker decided first, or drift neither starts nor ends
        self._returned[scope] = after
        log.warning("model %s: drift %s: %s", self._model_version, alert.state, alert.sentence())
        return [after.alert]

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

    def _confirm_and_resend(self) -> list[str]:
        """Marks the alerts of the last check as sent; returns alerts that must be sent again.

        A checkpoint has covered the alerts of the last check by now. An alert that no worker has
        marked as sent within RESEND_AFTER_MS is sent again.
        """
        now_ms = self._clock() * 1_000
        alerts = []
        for kind in PERIOD_MS:
            scope = decision_scope(self._reference, kind)
            state = self._store.state(scope)
            returned = self._returned.pop(scope, None)
            if state.sent:
                continue
            if returned is not None and returned.alert == state.alert:
                self._store.mark_sent(scope, state)
            elif now_ms - state.decided_at_ms > RESEND_AFTER_MS:
                self._returned[scope] = state
                alerts.append(state.alert)
        return alerts
