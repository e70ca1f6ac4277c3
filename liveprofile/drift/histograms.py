"""One worker's histograms of the model's inputs and scores, by hour of event time.

Array suffixes: n rows of a batch, N gathered rows, F model features, C features of the reference, S
series, W bins of the widest series.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from liveprofile.drift.reference import DriftReference
from liveprofile.units import HOUR_MS, MINUTE_MS

# An hour or a day closes when an event arrives whose time is this much later. Events that arrive
# after that do not change the decision.
LATENESS_MS = 10 * MINUTE_MS
OPEN_HOURS = 3  # hours kept in memory behind the latest event
_ROWS_PER_COUNT = 2_000  # counting fewer rows costs as much
# Only a user's first events of an hour count: the events of one visit resemble each other, and one
# visit may produce a quarter of a small shop's hourly events.
MAX_EVENTS_PER_USER_HOUR = 3
# Hash slots for the users counted in an hour, one byte each. Users in the same slot share the cap:
# 7% of 20,000 users an hour in one worker.
_SLOTS = 1 << 18


class UserHourCap:
    """Admits the first MAX_EVENTS_PER_USER_HOUR events of each user in an hour."""

    def __init__(self) -> None:
        self._admitted = bytearray(_SLOTS)

    def admit(self, user_N: np.ndarray) -> np.ndarray:
        """(N,) whether each event counts. user_N: a number per user, in order of arrival."""
        admitted, is_admitted = self._admitted, []
        for slot in (user_N % _SLOTS).tolist():
            below_cap = admitted[slot] < MAX_EVENTS_PER_USER_HOUR
            if below_cap:
                admitted[slot] += 1
            is_admitted.append(below_cap)
        return np.array(is_admitted, bool)


class HourlyHistograms:
    """Running histograms of the open hours. Gathers rows and counts many at once.

    names: the columns of the features that `add` gets.
    """

    def __init__(self, reference: DriftReference, names: list[str]):
        self._series = reference.series
        self._alert_score = np.float32(reference.alert_score)
        self._width = reference.width
        self._columns = [names.index(name) for name in reference.features]
        # Features, score, time and user hash of each gathered row.
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._gathered = 0
        self._totals: dict[int, np.ndarray] = {}
        self._user_caps: dict[int, UserHourCap] = {}  # by hour, like the totals
        self._changed: set[int] = set()
        self._floor_ms = 0  # earlier events are not counted
        self.max_event_ms = 0  # time of the latest event

    def add(
        self,
        x_nF: np.ndarray,
        score_n: np.ndarray,
        event_ms_n: np.ndarray,
        user_n: Sequence[Hashable],
        rows: Sequence[int],
    ) -> None:
        """Adds a batch. rows: the rows to count, subject to the cap per user and hour."""
        # Python's string hash differs between processes; each worker counts on its own.
        users = np.array([hash(user_n[row]) for row in rows], np.int64)
        # Selects the columns first, since they are few of many.
        self._rows.append((x_nF[:, self._columns][rows], score_n[rows], event_ms_n[rows], users))
        self._gathered += len(rows)
        if self._gathered >= _ROWS_PER_COUNT:
            self._count()

    def take_changed(self) -> dict[int, np.ndarray]:
        """Returns {hour in ms: (S, W) totals} of the hours that changed since the last call.

        Evicts hours more than OPEN_HOURS behind the latest event and ignores their later events.
        """
        self._count()
        changed = {hour_ms: self._totals[hour_ms] for hour_ms in sorted(self._changed)}
        self._changed.clear()
        self._floor_ms = self.max_event_ms // HOUR_MS * HOUR_MS - OPEN_HOURS * HOUR_MS
        self._totals = {
            hour_ms: totals_SW
            for hour_ms, totals_SW in self._totals.items()
            if hour_ms >= self._floor_ms
        }
        self._user_caps = {hour_ms: self._user_caps[hour_ms] for hour_ms in self._totals}
        return changed

    def _count(self) -> None:
        if not self._rows:
            return
        x_NC, score_N, event_ms_N, user_N = (
            np.concatenate(parts) for parts in zip(*self._rows, strict=True)
        )
        self._rows, self._gathered = [], 0
        self.max_event_ms = max(self.max_event_ms, int(event_ms_N.max()))
        hour_N = event_ms_N // HOUR_MS * HOUR_MS
        for hour_ms in np.unique(hour_N).tolist():
            if hour_ms < self._floor_ms:
                continue
            hour_rows = np.flatnonzero(hour_N == hour_ms)
            cap = self._user_caps.setdefault(hour_ms, UserHourCap())
            kept = hour_rows[cap.admit(user_N[hour_rows])]
            counts_SW = self._histograms(x_NC[kept], score_N[kept])
            self._totals[hour_ms] = self._totals.get(hour_ms, 0) + counts_SW
            self._changed.add(hour_ms)

    def _histograms(self, x_NC: np.ndarray, score_N: np.ndarray) -> np.ndarray:
        scores_N = score_N.astype(np.float32)
        # A wave of frauds that the model detects is not drift of its inputs.
        below_N = scores_N < self._alert_score
        columns = [*x_NC[below_N].T, scores_N[below_N], scores_N]
        return np.array(
            [
                np.bincount(series.bins(values_N), minlength=self._width)
                for series, values_N in zip(self._series, columns, strict=True)
            ]
        )
