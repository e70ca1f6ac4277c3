"""The drift reference: distributions of a model's inputs and score on its training data; and the
histograms of one worker that are compared with it, by hour of event time.

Each is a histogram with an extra bin for missing values. Bins are finer where values are rare,
because a shift shows most in the tails (models.fraud.training.drift_reference).

Array suffixes: B bins of a series, J merged bins, K value bins, n values or rows of a batch, N
gathered rows, C features of the reference, S series, W bins of the widest series.
"""

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from scipy.special import ndtri

from liveprofile.errors import InputError
from liveprofile.units import HOUR_MS, MINUTE_MS

FORMAT = 3
REFERENCE_FILE = "reference.json"
MIN_BIN_SHARE = 0.05  # the usual minimum for PSI bins (Siddiqi 2006)
SCORE, ALERT_RATE = "score", "alert_rate"


@dataclass(frozen=True)
class Series:
    """One histogram of B bins: bin b holds edges[b - 1] < value <= edges[b], the last the missing.

    A spread says how many times further one hour of the training data is from the whole than the
    same number of independent events would be (1: no further). Events of an hour resemble each
    other.
    """

    name: str  # a feature, SCORE, or ALERT_RATE (the score in two bins)
    edges: tuple[float, ...]  # (B - 2,) ascending, float32 values
    counts: tuple[int, ...]  # (B,) events of the training data
    spread: float = 1.0  # of the PSI; for ALERT_RATE of the variance
    # Of the squared mean shift (liveprofile.drift.comparison). None: shifts are not tested.
    shift_spread: float | None = None

    @cached_property
    def share_B(self) -> np.ndarray:
        """(B,) shares above 0: each bin gets half an event more, since empty bins may fill."""
        counts_B = np.array(self.counts, np.float64) + 0.5
        return counts_B / counts_B.sum()

    @cached_property
    def _merged_start_J(self) -> np.ndarray:
        """(J,) first bin of each merged bin: neighbours below MIN_BIN_SHARE are merged until they
        reach it. The missing bin is never merged."""
        starts, merged_share = [], 1.0
        for bin_index, share in enumerate(self.share_B[:-1]):
            if merged_share >= MIN_BIN_SHARE or share >= MIN_BIN_SHARE:
                starts.append(bin_index)
                merged_share = 0.0
            merged_share += share
        return np.array([*starts, len(self.share_B) - 1])

    def merge_bins(self, values_B: np.ndarray) -> np.ndarray:
        """(J,) sums of counts or shares over the merged bins that the PSI compares.

        In an almost empty bin a single event would raise the PSI too much.
        """
        return np.add.reduceat(values_B, self._merged_start_J)

    @cached_property
    def value_bins(self) -> slice:
        """The bins whose values can shift.

        Excludes the missing bin. Excludes the bin of 0 if most values are above 0, because 0 then
        means "none", such as the amount of an event without a purchase.
        """
        zero_means_none = self.edges[0] == 0 and 2 * self.counts[0] < sum(self.counts[:-1])
        return slice(1 if zero_means_none else 0, -1)

    @cached_property
    def normal_score_K(self) -> np.ndarray:
        """(K,) normal scores of the value bins (van der Waerden 1952): the mean of the part of a
        standard normal distribution that holds the bin's share; 0 for an empty bin."""
        counts_K = np.array(self.counts, np.float64)[self.value_bins]
        shares_K = counts_K / max(counts_K.sum(), 1.0)
        ends = ndtri(np.clip(np.concatenate([[0.0], np.cumsum(shares_K)]), 0.0, 1.0))
        density = np.exp(-(ends**2) / 2) / np.sqrt(2 * np.pi)
        scores_K = np.zeros(len(shares_K))
        return np.divide(density[:-1] - density[1:], shares_K, out=scores_K, where=shares_K > 0)

    def bins(self, values_n: np.ndarray) -> np.ndarray:
        """(n,) the bin index of each value. NaN is missing."""
        bin_n = np.searchsorted(np.array(self.edges, np.float32), values_n, side="left")
        bin_n[np.isnan(values_n)] = len(self.edges) + 1
        return bin_n


@dataclass(frozen=True)
class DriftReference:
    """The distributions of features, then SCORE and ALERT_RATE.

    Only each user's first events of an hour count (HourlyHistograms). All series but
    ALERT_RATE count only events below the alert score: frauds that the model detects are not drift
    of its inputs.
    """

    events: int  # events counted
    alert_score: float  # scores at or above this count as alerts
    series: tuple[Series, ...]

    @cached_property
    def version(self) -> str:
        """A hash of the contents. Counts of different versions cannot be added: bins differ."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    @property
    def features(self) -> list[str]:
        return [series.name for series in self.series if series.name not in (SCORE, ALERT_RATE)]

    @property
    def width(self) -> int:
        """W, the largest number of bins of a series."""
        return max(len(series.counts) for series in self.series)

    def save(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, "version": self.version, **asdict(self)}, indent=1)
        (folder / REFERENCE_FILE).write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Reads the reference of a model checkpoint.

        Returns None if the folder has none. Raises InputError if the file is invalid.
        """
        file = folder / REFERENCE_FILE
        if not file.exists():
            return None
        try:
            card = json.loads(file.read_text())
            if card["format"] != FORMAT:
                raise ValueError(f"format {card['format']}, this version reads {FORMAT}")
            series = tuple(
                Series(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
                for fields in card["series"]
            )
            return cls(card["events"], card["alert_score"], series)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"drift reference {file}: {error}") from None


# An hour closes when an event arrives whose time is this much later. Events that arrive
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
