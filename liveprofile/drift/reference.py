"""What is usual: the distributions of a model's inputs and of its score on its training data.

Each is a histogram with one more bin for values that are missing. Bins are finer where values are
rare, as a shift shows most in the tails (models.fraud.training.drift_reference).
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from liveprofile.errors import InputError

log = logging.getLogger(__name__)

FORMAT = 2
_EARLIER = 1  # counted every event of a user, and knew no shifts
FILE = "reference.json"
LEAST_SHARE = 0.05  # usual for bins of the PSI (Siddiqi 2006)
SCORE, ALERT_RATE = "score", "alert_rate"


@dataclass(frozen=True)
class Series:
    """One histogram. B bins: bin b holds edges[b - 1] < value <= edges[b], the last is `missing`.

    Spreads: how many times further from the whole one hour of the training data was than equally
    many events drawn one by one would be (1: no further); events of an hour resemble each other,
    and those of a day may do so far more: a week's coupons are the same ones every hour.
    """

    name: str  # a feature, SCORE, or ALERT_RATE: the score in two bins
    edges: tuple[float, ...]  # (B - 2,) ascending, float32 values
    counts: tuple[int, ...]  # (B,) events of the training data
    spread: float = 1.0  # of the PSI; of the alert rate's variance
    # Of the square of the shift (liveprofile.drift.comparison); None: not known, it isn't judged.
    shift_spread: float | None = None
    day_spread: float = 1.0
    day_shift_spread: float | None = None

    @cached_property
    def share_B(self) -> np.ndarray:
        """(B,) above 0: half an event more in each bin, as a bin that was empty may not stay so."""
        counts_B = np.array(self.counts, np.float64) + 0.5
        return counts_B / counts_B.sum()

    @cached_property
    def _runs_J(self) -> np.ndarray:
        """(J,) first bins of runs: neighbours of less than LEAST_SHARE are joined until they have
        it. Missing stays alone."""
        starts, run = [], 1.0
        for place, share in enumerate(self.share_B[:-1]):
            if run >= LEAST_SHARE or share >= LEAST_SHARE:
                starts.append(place)
                run = 0.0
            run += share
        return np.array([*starts, len(self.share_B) - 1])

    def runs(self, values_B: np.ndarray) -> np.ndarray:
        """(J,) sums of counts or shares over the runs of bins that the PSI compares: of bins that
        are all but empty, one event would be too much to it."""
        return np.add.reduceat(values_B, self._runs_J)

    @cached_property
    def ordered(self) -> slice:
        """The bins of the values that are there, which may shift. Missing isn't one, nor is the 0
        that stands for nothing where most have more, such as the amount of an event without."""
        nothing = self.edges[0] == 0 and 2 * self.counts[0] < sum(self.counts[:-1])
        return slice(1 if nothing else 0, -1)

    @cached_property
    def score_K(self) -> np.ndarray:
        """(K,) normal scores of the K bins of `ordered` (van der Waerden 1952): the mean of the
        part of a standard normal distribution that holds the bin's share; 0 of an empty bin."""
        counts_K = np.array(self.counts, np.float64)[self.ordered]
        shares_K = counts_K / max(counts_K.sum(), 1.0)
        ends = ndtri(np.clip(np.concatenate([[0.0], np.cumsum(shares_K)]), 0.0, 1.0))
        density = np.exp(-(ends**2) / 2) / np.sqrt(2 * np.pi)
        scores_K = np.zeros(len(shares_K))
        return np.divide(density[:-1] - density[1:], shares_K, out=scores_K, where=shares_K > 0)

    def bins(self, values_n: np.ndarray) -> np.ndarray:
        """(n,) places in counts; NaN is missing."""
        found_n = np.searchsorted(np.array(self.edges, np.float32), values_n, side="left")
        found_n[np.isnan(values_n)] = len(self.edges) + 1
        return found_n


@dataclass(frozen=True)
class Reference:
    """`series`: of features, then of SCORE and ALERT_RATE, S in all.

    Of each user the first few events of an hour count (liveprofile.drift.histograms); all but
    ALERT_RATE count those below the alert score only, so that frauds that the model sees are no
    drift of what it sees.
    """

    events: int  # that count
    alert_score: float  # a score from here on counts as an alert
    series: tuple[Series, ...]

    @cached_property
    def version(self) -> str:
        """Counts of different references can't be added up: their bins differ."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    @cached_property
    def of_days(self) -> Reference:
        """What the counts of a day are judged by: the spreads are those of days."""
        series = tuple(
            replace(one, spread=one.day_spread, shift_spread=one.day_shift_spread)
            for one in self.series
        )
        return replace(self, series=series)

    @property
    def features(self) -> list[str]:
        return [one.name for one in self.series if one.name not in (SCORE, ALERT_RATE)]

    @property
    def width(self) -> int:
        """W, the most bins of a series."""
        return max(len(one.counts) for one in self.series)

    def save(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, "version": self.version, **asdict(self)}, indent=1)
        (folder / FILE).write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Reference | None:
        """None if the folder has none, or one of an earlier version, which the log says. Raises
        InputError if the file can't be used."""
        file = folder / FILE
        if not file.exists():
            return None
        try:
            card = json.loads(file.read_text())
            if card["format"] == _EARLIER:
                log.warning(
                    "reference %s: format %d, drift is watched from format %d on: make it again"
                    " (liveprofile drift reference), or train anew", file, _EARLIER, FORMAT,
                )  # fmt: skip
                return None
            if card["format"] != FORMAT:
                raise ValueError(f"format {card['format']}, this version reads {FORMAT}")
            series = tuple(
                Series(
                    one["name"], tuple(one["edges"]), tuple(one["counts"]), one["spread"],
                    one["shift_spread"], one.get("day_spread", one["spread"]),
                    one.get("day_shift_spread", one["shift_spread"]),
                )
                for one in card["series"]
            )  # fmt: skip
            found = cls(card["events"], card["alert_score"], series)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"reference {file}: {error}") from None
        return found
