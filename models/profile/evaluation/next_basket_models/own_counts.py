"""Next baskets by the user's own counts, by GP-TopFreq and by popularity."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from models.profile.evaluation.next_basket_models.history import History

HALF_LIVES_DAYS = (14.0, 30.0, 60.0, 90.0, 180.0, np.inf)
POPULARITY_WEIGHTS = (0.0, 3.0, 10.0, 30.0, 100.0)


class OwnCounts(NamedTuple):
    """The user's decayed counts plus a pseudo-count by popularity."""

    half_life_days: float  # inf: all windows count alike
    popularity_weight: float  # sum of all pseudo-counts; 0: popularity only breaks ties
    per_event: bool  # count events, not windows with the code

    def rank(self, history: History) -> np.ndarray:
        """(R, K) codes, best first."""
        weight_E = np.exp2(-history.age_days_E / self.half_life_days)
        if self.per_event:
            weight_E = weight_E * history.events_E
        return history.best(history.sums(weight_E), self.popularity_weight)


OWN_COUNTS_GRID = [
    OwnCounts(*settings) for settings in product(HALF_LIVES_DAYS, POPULARITY_WEIGHTS, (False, True))
]


def gp_topfreq(history: History) -> np.ndarray:
    """(R, K) the user's most frequent codes, then the most popular ones.

    GP-TopFreq of Li et al. 2023 (arXiv:2109.14233): counts of windows without decay.
    """
    return history.best(history.sums(np.ones_like(history.age_days_E)))


def popularity(history: History) -> np.ndarray:
    """(R, K) the most popular codes."""
    return history.best(np.zeros(len(history.row_P)), 1.0)
