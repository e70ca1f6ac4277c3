"""Monitors the drift of the fraud model's inputs and scores across all workers.

Each worker counts its own events, writes the counts to the drift store, and decides for all workers
whether a finished hour drifted, unless another worker has decided before. The store is used by a
thread of its own: while it is slow or away, scoring goes on and drift is decided later.

Each worker sends the newest alert when it first sees it in the store. So the alert of a worker that
failed before a checkpoint covered it is sent by the others, and by the worker after its restart.
"""

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import orjson

from liveprofile.drift.alert import DriftAlert
from liveprofile.drift.comparison import DriftVerdict, assess_drift
from liveprofile.drift.reference import LATENESS_MS, DriftReference, HourlyHistograms
from liveprofile.drift.store import CassandraDriftStore, DriftDecision, DriftState
from liveprofile.errors import ServiceError
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from liveprofile.wire.user_records import DEFAULT_SOURCE

log = logging.getLogger(__name__)

WRITE_EVERY_S, CHECK_EVERY_S = 5.0, 60.0
MAX_ALERT_AGE_MS = DAY_MS  # a worker that starts sends no older one
# Hours that wait for a decision. A job that catches up decides on the latest ones only.
MAX_PENDING_HOURS = 48
# Drift starts if a distance exceeds its limit by this factor, or if the same distance exceeds its
# limit in two consecutive hours: of some 700 hours a month and 33 distributions, one exceeds its
# limit now and then by chance.
IMMEDIATE_FACTOR = 2.0
CALM_HOURS = 2  # consecutive calm hours that end drift


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
        self._task: Future[list[str]] | None = None
        self._written_s = self._checked_s = clock()
        # Only the task uses these.
        self._unwritten: dict[int, np.ndarray] = {}  # totals by hour
        self._open: set[int] = set()  # hours
        self._pending: deque[int] = deque(maxlen=MAX_PENDING_HOURS)
        self._seen = ""  # the newest alert

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
        alerts = self._finished_task()
        now_s = self._clock()
        if self._task is None and now_s - self._written_s >= WRITE_EVERY_S:
            self._written_s = now_s
            if is_check := now_s - self._checked_s >= CHECK_EVERY_S:
                self._checked_s = now_s
            changed, max_ms = self._histograms.take_changed(), self._histograms.max_event_ms
            self._task = self._executor.submit(self._write_and_check, changed, max_ms, is_check)
            alerts += self._finished_task()
        return alerts

    def close(self) -> None:
        """Does not wait for the store: what is missing there is written after the next start."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _finished_task(self) -> list[str]:
        """Returns what the task has returned if it has just finished, else nothing."""
        if self._task is None or not self._task.done():
            return []
        alerts, self._task = self._task.result(), None
        return alerts

    def _write_and_check(
        self, changed: dict[int, np.ndarray], max_event_ms: int, is_check: bool
    ) -> list[str]:
        """Runs in the thread. Returns alerts."""
        self._unwritten |= changed
        alerts: list[str] = []
        try:
            self._write(max_event_ms)
            if is_check:
                self._check(max_event_ms, alerts)
        except ServiceError as error:
            # The next task writes the counts and decides.
            log.warning("drift monitoring is behind: %s", error)
        return alerts

    def _write(self, max_event_ms: int) -> None:
        for hour_ms, counts_SW in self._unwritten.items():
            self._store.write(self._reference.version, hour_ms, self._worker, counts_SW)
            self._open.add(hour_ms)
        self._unwritten.clear()
        finished = {ms for ms in self._open if ms + HOUR_MS + LATENESS_MS <= max_event_ms}
        self._open -= finished
        self._pending.extend(sorted(finished))

    def _check(self, max_event_ms: int, alerts: list[str]) -> None:
        """Decides on the hours that are finished. Adds to `alerts` what must be sent."""
        state = self._store.state(self._reference.version)
        self._see(state, alerts)
        if not self._pending:
            return
        # Taken from the latest hour, because a single event may carry any time in the past.
        hour_ms = max_event_ms // HOUR_MS * HOUR_MS
        decided_from_ms = self._store.first_hour(hour_ms) + self._after_ms
        while self._pending:
            if self._pending[0] >= decided_from_ms:
                self._decide(self._pending[0], alerts)
            self._pending.popleft()

    def _see(self, state: DriftState, alerts: list[str]) -> None:
        """Adds the newest alert, unless this worker has sent it or it is old."""
        if state.alert != self._seen:
            self._seen = state.alert
            if self._clock() * SECOND_MS - state.alert_at_ms <= MAX_ALERT_AGE_MS:
                message = orjson.loads(state.alert)["data"]["message"]
                log.warning("model %s: drift: %s", self._model_version, message)
                alerts.append(state.alert)

    def _decide(self, hour_ms: int, alerts: list[str]) -> None:
        """Decides on an hour unless that is done."""
        version = self._reference.version
        before = self._store.state(version)
        if before.decided_until_ms is not None and before.decided_until_ms > hour_ms:
            return
        counts = self._store.totals(version, hour_ms)
        if counts is None:
            return
        verdict = assess_drift(self._reference, counts.reshape(len(self._reference.series), -1))
        if verdict is None:
            return
        after = self._next_state(before, hour_ms, verdict)
        distances = {each.name: [each.value, each.limit] for each in verdict.distances}
        decision = DriftDecision(
            hour_ms, verdict.events, after.since_ms is not None, orjson.dumps(distances).decode()
        )
        if self._store.decide(version, before, after, decision):  # else another worker was first
            self._see(after, alerts)

    def _next_state(self, before: DriftState, hour_ms: int, verdict: DriftVerdict) -> DriftState:
        since_ms, calm_hours, end_ms = before.since_ms, 0, hour_ms + HOUR_MS
        if since_ms is None:
            since_ms = self._drift_start_ms(hour_ms, verdict)
        elif not verdict.drifted:
            calm_hours = before.calm_hours + 1 if verdict.calm else 0
            if calm_hours >= CALM_HOURS:
                since_ms = None
        after = before._replace(decided_until_ms=end_ms, since_ms=since_ms, calm_hours=calm_hours)
        if (since_ms is None) == (before.since_ms is None):
            return after
        alert = DriftAlert(
            "ended" if since_ms is None else "started",
            hour_ms,
            end_ms,
            before.since_ms if since_ms is None else since_ms,
            self._model_version,
            self._reference.version,
            verdict.events,
            verdict.reasons,
            self._event_source,
        )
        return after._replace(
            alert=alert.cloud_event().decode(), alert_at_ms=round(self._clock() * SECOND_MS)
        )

    def _drift_start_ms(self, hour_ms: int, verdict: DriftVerdict) -> int | None:
        """Returns the start of the first drifted hour, or None if there is no drift."""
        if verdict.exceeds(IMMEDIATE_FACTOR):
            return hour_ms
        for latest in self._store.decisions(self._reference.version, 1) if verdict.drifted else ():
            if latest.exceeded & verdict.drifted:
                return latest.start_ms
        return None
