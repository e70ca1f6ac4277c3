"""The drift reference: distributions of a model's inputs and score on its training data.

Each is a histogram with an extra bin for missing values. Bins are finer where values are rare,
because a shift shows most in the tails (models.fraud.training.drift_reference).

Array suffixes: B bins of a series, J merged bins, K value bins, n values.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from liveprofile.errors import InputError

FORMAT = 2
REFERENCE_FILE = "reference.json"
MIN_BIN_SHARE = 0.05  # the usual minimum for PSI bins (Siddiqi 2006)
SCORE, ALERT_RATE = "score", "alert_rate"


@dataclass(frozen=True)
class Series:
    """One histogram of B bins: bin b holds edges[b - 1] < value <= edges[b], the last the missing.

    A spread says how many times further one hour of the training data is from the whole than the
    same number of independent events would be (1: no further). Events of an hour resemble each
    other. Those of a day may do so far more: a week's coupons are the same ones every hour.
    """

    name: str  # a feature, SCORE, or ALERT_RATE (the score in two bins)
    edges: tuple[float, ...]  # (B - 2,) ascending, float32 values
    counts: tuple[int, ...]  # (B,) events of the training data
    spread: float = 1.0  # of the PSI; for ALERT_RATE of the variance
    # Of the squared mean shift (liveprofile.drift.comparison). None: shifts are not tested.
    shift_spread: float | None = None
    day_spread: float = 1.0
    day_shift_spread: float | None = None

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

    Only each user's first events of an hour count (liveprofile.drift.histograms). All series but
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

    @cached_property
    def daily(self) -> DriftReference:
        """The reference for a day's counts: with the spreads of days."""
        series = tuple(
            replace(series, spread=series.day_spread, shift_spread=series.day_shift_spread)
            for series in self.series
        )
        return replace(self, series=series)

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
    def load(cls, folder: Path) -> DriftReference | None:
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
