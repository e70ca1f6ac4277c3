"""One worker's counts of what the model saw, by hour of event time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from liveprofile.drift.reference import Reference
from liveprofile.units import HOUR_MS

# An hour or a day is over for an event this much later: what comes still later isn't judged.
GRACE_MS = 600_000
OPEN_HOURS = 3  # behind the latest event; memory holds no more
_ROWS_AT_ONCE = 2_000  # to count a batch of few rows alone would cost as much
# Of a user in an hour so many events count, the first ones: the events of one visit resemble each
# other, and one visit may have a quarter of a small shop's events of an hour.
MOST_OF_USER = 3
# Memory of who was counted in an hour, one byte each. Users that share a slot share what counts of
# them: with 20,000 users an hour in one worker these are 7%.
_SLOTS = 1 << 18


class UsersOfHour:
    """How many events of each user count so far."""

    def __init__(self) -> None:
        self._counted = bytearray(_SLOTS)

    def first_few(self, user_N: np.ndarray) -> np.ndarray:
        """(N,) whether each event counts. user_N: any number of the user, in order of arrival."""
        counted, kept = self._counted, []
        for slot in (user_N % _SLOTS).tolist():
            few = counted[slot] < MOST_OF_USER
            if few:
                counted[slot] += 1
            kept.append(few)
        return np.array(kept, bool)


class Histograms:
    """Running totals of the hours that are open. Rows are gathered, and counted many at once.

    names: of the columns that `add` gets.
    """

    def __init__(self, reference: Reference, names: list[str]):
        self._series = reference.series
        self._alert_score = np.float32(reference.alert_score)
        self._width = reference.width
        self._columns = [names.index(name) for name in reference.features]
        # Features, score, time and user's number of each row.
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._gathered = 0
        self._totals: dict[int, np.ndarray] = {}
        self._users: dict[int, UsersOfHour] = {}  # by hour, as the totals
        self._changed: set[int] = set()
        self._floor_ms = 0  # what is earlier isn't counted
        self.latest_ms = 0  # time of the latest event

    def add(
        self,
        x_nF: np.ndarray,
        score_n: np.ndarray,
        event_ms_n: np.ndarray,
        user_n: Sequence[Hashable],
        rows: Sequence[int],
    ) -> None:
        """rows: those of the n that count, if their users haven't many."""
        # A string's hash is another in each process, which counts for itself.
        users = np.array([hash(user_n[row]) for row in rows], np.int64)
        # Columns first: they are few of many.
        self._rows.append((x_nF[:, self._columns][rows], score_n[rows], event_ms_n[rows], users))
        self._gathered += len(rows)
        if self._gathered >= _ROWS_AT_ONCE:
            self._count()

    def changed(self) -> dict[int, np.ndarray]:
        """{hour, in ms: (S, W) totals} of the hours that have changed since the last call; hours
        too long past are forgotten, and what still comes for them isn't counted."""
        self._count()
        found = {hour_ms: self._totals[hour_ms] for hour_ms in sorted(self._changed)}
        self._changed.clear()
        self._floor_ms = self.latest_ms // HOUR_MS * HOUR_MS - OPEN_HOURS * HOUR_MS
        self._totals = {
            hour_ms: totals_SW
            for hour_ms, totals_SW in self._totals.items()
            if hour_ms >= self._floor_ms
        }
        self._users = {hour_ms: self._users[hour_ms] for hour_ms in self._totals}
        return found

    def _count(self) -> None:
        if not self._rows:
            return
        x_NC, score_N, event_ms_N, user_N = (
            np.concatenate(parts) for parts in zip(*self._rows, strict=True)
        )
        self._rows, self._gathered = [], 0
        self.latest_ms = max(self.latest_ms, int(event_ms_N.max()))
        hour_N = event_ms_N // HOUR_MS * HOUR_MS
        for hour_ms in np.unique(hour_N).tolist():
            if hour_ms < self._floor_ms:
                continue
            of_hour = np.flatnonzero(hour_N == hour_ms)
            users = self._users.setdefault(hour_ms, UsersOfHour())
            kept = of_hour[users.first_few(user_N[of_hour])]
            counts_SW = self._histograms(x_NC[kept], score_N[kept])
            self._totals[hour_ms] = self._totals.get(hour_ms, 0) + counts_SW
            self._changed.add(hour_ms)

    def _histograms(self, x_NC: np.ndarray, score_N: np.ndarray) -> np.ndarray:
        scores_N = score_N.astype(np.float32)
        # Frauds that the model sees are what it is for: a wave of them is no drift of its inputs.
        quiet_N = scores_N < self._alert_score
        columns = [*x_NC[quiet_N].T, scores_N[quiet_N], scores_N]
        return np.array(
            [
                np.bincount(series.bins(values_N), minlength=self._width)
                for series, values_N in zip(self._series, columns, strict=True)
            ]
        )
