"""What is usual: the distributions of a model's inputs and of its score on its training data.

Each is a histogram whose bins hold about equal shares of the training data (deciles), with one more
bin for values that are missing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from liveprofile.errors import InputError

FORMAT = 1
FILE = "reference.json"
SCORE, ALERT_RATE = "score", "alert_rate"


@dataclass(frozen=True)
class Series:
    """One histogram. B bins: bin b holds edges[b - 1] < value <= edges[b], the last is `missing`.

    `spread`: how many times further from the whole one hour of the training data was than equally
    many events drawn one by one would be (1: no further); events of an hour resemble each other.
    """

    name: str  # a feature, SCORE, or ALERT_RATE: the score in two bins
    edges: tuple[float, ...]  # (B - 2,) ascending, float32 values
    counts: tuple[int, ...]  # (B,) events of the training data
    spread: float = 1.0

    @cached_property
    def share_B(self) -> np.ndarray:
        """(B,) above 0: half an event more in each bin, as a bin that was empty may not stay so."""
        counts_B = np.array(self.counts, np.float64) + 0.5
        return counts_B / counts_B.sum()

    def bins(self, values_n: np.ndarray) -> np.ndarray:
        """(n,) places in counts; NaN is missing."""
        found_n = np.searchsorted(np.array(self.edges, np.float32), values_n, side="left")
        found_n[np.isnan(values_n)] = len(self.edges) + 1
        return found_n


@dataclass(frozen=True)
class Reference:
    """`series`: of features, then of SCORE and ALERT_RATE, S in all.

    Features count events below the alert score only, so that frauds that the model sees are no
    drift of what it sees.
    """

    events: int
    alert_score: float  # a score from here on counts as an alert
    series: tuple[Series, ...]

    @cached_property
    def version(self) -> str:
        """Counts of different references can't be added up: their bins differ."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

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
        """None if the folder has none. Raises InputError if the file can't be used."""
        file = folder / FILE
        if not file.exists():
            return None
        try:
            card = json.loads(file.read_text())
            if card["format"] != FORMAT:
                raise ValueError(f"format {card['format']}, this version reads {FORMAT}")
            series = tuple(
                Series(one["name"], tuple(one["edges"]), tuple(one["counts"]), one["spread"])
                for one in card["series"]
            )
            found = cls(card["events"], card["alert_score"], series)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"reference {file}: {error}") from None
        return found
