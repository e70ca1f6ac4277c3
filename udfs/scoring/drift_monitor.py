"""Watches what one worker's model sees, and with the other workers decides whether it drifts."""

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
from liveprofile.drift.comparison import Verdict, judge
from liveprofile.drift.histograms import GRACE_MS, Histograms
from liveprofile.drift.reference import Reference
from liveprofile.units import DAY_MS, HOUR_MS
from udfs.scoring.drift_store import Decision, DriftStore, HourCounts, State

log = logging.getLogger(__name__)

WRITE_EVERY_S, CHECK_EVERY_S = 5.0, 60.0
# An alert whose sender has not said by then that it was sent may have died with it.
RESEND_AFTER_MS = 180_000
MOST_PENDING = 48  # periods that await a decision: a job that catches up decides on the last
LENGTH_MS = {"hour": HOUR_MS, "day": DAY_MS}
# Drift starts above so many times a limit, or if the same is above its limit in two periods in a
# row: of some 700 hours a month and 33 distributions one is odd now and then.
AT_ONCE = {"hour": 2.0, "day": 1.0}
CALM_PERIODS = {"hour": 2, "day": 1}  # in a row, until drift is over


class Period(NamedTuple):
    kind: Literal["hour", "day"]
    start_ms: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + LENGTH_MS[self.kind]


def scope(reference: Reference, kind: str) -> str:
    """What decisions follow upon each other: each reference and kind of period on its own."""
    return f"{reference.version}/{kind}"


class DriftMonitor:
    """Of one worker. names: of the columns that `observe` gets.

    after_days: nothing is decided before so many days of events were counted, as the pasts of a
    job that has just begun are shorter than those of the reference. clock: in seconds.
    """

    def __init__(
        self,
        reference: Reference,
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
        self._histograms = Histograms(reference, names)
        self._written_s = self._checked_s = clock()
        self._open: set[Period] = set()
        self._pending: deque[Period] = deque(maxlen=MOST_PENDING)
        self._handed_over: dict[str, State] = {}  # alerts of the check before, by scope

    def observe(
        self,
        x_nF: np.ndarray,
        score_n: np.ndarray,
        event_ms_n: np.ndarray,
        user_n: Sequence[Hashable],
        rows: Sequence[int],
    ) -> list[str]:
        """Counts rows of a batch; returns CloudEvents to send, whose decisions are stored.

        Raises StoreError or ServiceError: the batch must be replayed.
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
        changed = self._histograms.changed()
        self._store.write(
            [
                HourCounts(self._reference.version, hour_ms, self._worker, counts_SW)
                for hour_ms, counts_SW in changed.items()
            ]
        )
        for hour_ms in changed:
            self._open |= {Period("hour", hour_ms), Period("day", hour_ms // DAY_MS * DAY_MS)}
        over = {
            period
            for period in self._open
            if period.end_ms + GRACE_MS <= self._histograms.latest_ms
        }
        self._open -= over
        self._pending.extend(sorted(over, key=lambda period: period.end_ms))

    def _check(self) -> list[str]:
        alerts = self._unconfirmed()
        if not self._pending:
            return alerts
        # The latest hour, as a single event may name any time of the past.
        hour_ms = self._histograms.latest_ms // HOUR_MS * HOUR_MS
        judged_from_ms = self._store.first_hour(hour_ms) + self._after_ms
        while self._pending:
            period = self._pending[0]
            if period.start_ms >= judged_from_ms:
                alerts += self._decide(period)
            self._pending.popleft()
        return alerts

    def _decide(self, period: Period) -> list[str]:
        of = scope(self._reference, period.kind)
        before = self._store.state(of)
        if before.decided_until_ms is not None and before.decided_until_ms >= period.end_ms:
            return []
        counts = self._store.totals(self._reference.version, period.start_ms, period.end_ms)
        if counts is None:
            return []
        usual = self._reference.of_days if period.kind == "day" else self._reference
        verdict = judge(usual, counts.reshape(len(usual.series), -1))
        if verdict is None:
            return []
        after, alert = self._after(of, before, period, verdict)
        distances = {one.name: [one.value, one.limit] for one in verdict.distances}
        decision = Decision(
            period.start_ms, verdict.events, after.since_ms is not None,
            orjson.dumps(distances).decode(),
        )  # fmt: skip
        if not self._store.decide(of, before, after, decision) or alert is None:
            return []  # another worker was faster, or nothing changes
        self._handed_over[of] = after
        log.warning("model %s: drift %s: %s", self._model_version, alert.state, alert.sentence())
        return [after.alert]

    def _after(
        self, of: str, before: State, period: Period, verdict: Verdict
    ) -> tuple[State, DriftAlert | None]:
        since_ms, calm, told = before.since_ms, 0, ""
        if since_ms is None:
            since_ms = self._start(of, period, verdict)
            told = "" if since_ms is None else "started"
        elif not verdict.drifted:
            calm = before.calm_periods + 1 if verdict.calm else 0
            if calm >= CALM_PERIODS[period.kind]:
                since_ms, told = None, "ended"
        after = before._replace(
            decided_until_ms=period.end_ms, since_ms=since_ms, calm_periods=calm, by=self._worker,
            decided_at_ms=round(self._clock() * 1_000),
        )  # fmt: skip
        if not told:
            return after, None
        began_ms = before.since_ms if since_ms is None else since_ms
        alert = DriftAlert(
            told, period.kind, period.start_ms, period.end_ms, began_ms, self._model_version,
            self._reference.version, verdict.events, verdict.reasons,
        )  # fmt: skip
        return after._replace(alert=alert.cloud_event().decode(), sent=False), alert

    def _start(self, of: str, period: Period, verdict: Verdict) -> int | None:
        """Since when it drifts; None: it doesn't."""
        if verdict.above(AT_ONCE[period.kind]):
            return period.start_ms
        for latest in self._store.decisions(of, 1) if verdict.drifted else ():
            if latest.above & verdict.drifted:
                return latest.start_ms
        return None

    def _unconfirmed(self) -> list[str]:
        """Confirms what was handed over at the check before, which a checkpoint has covered by
        now; hands over again what nobody has confirmed for long."""
        now_ms = self._clock() * 1_000
        found = []
        for kind in LENGTH_MS:
            of = scope(self._reference, kind)
            state = self._store.state(of)
            mine = self._handed_over.pop(of, None)
            if state.sent:
                continue
            if mine is not None and mine.alert == state.alert:
                self._store.confirm(of, state)
            elif now_ms - state.decided_at_ms > RESEND_AFTER_MS:
                self._handed_over[of] = state
                found.append(state.alert)
        return found
