"""Baseline models of next baskets, tuned on validation like the user model.

Popularity, the user's own counts and an LSTM (models/profile/evaluation/recurrent.py). Popularity
comes from the training windows, or from training and validation when the test split is ranked.

Shape suffixes: W windows of the streams, L lines (a code in a window), R rows (a user at the end of
a window), E windows in the past of a row, C codes, K places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.encoding import concatenated_ranges
from models.profile.evaluation import recurrent
from models.profile.evaluation.next_basket import (
    NO_CODE,
    PLACES,
    Baskets,
    Kind,
    NextBaskets,
    basket_scores,
    next_baskets,
    subset,
)

TUNING_ROWS = 2_000
BLOCK_ROWS = 256
TIE_BREAK = 1e-9  # popularity of equal counts
Settings = TypeVar("Settings", bound=Any)


class BaselineRanking(NamedTuple):
    """(R, K) codes, best first, and the settings that validation chose."""

    ranking_RK: np.ndarray
    settings: dict[str, Any]


# From streams, kind, split, targets, and whether popularity includes the validation split.
RankBaselines = Callable[
    [Streams, Kind, Split, NextBaskets, bool, Progress], dict[str, BaselineRanking]
]


class OwnCounts(NamedTuple):
    """The user's decayed counts plus a pseudo-count by popularity."""

    half_life_days: float = 60.0  # inf: all windows count alike
    popularity_weight: float = 10.0  # sum of all pseudo-counts; 0: popularity only breaks ties
    per_event: bool = False  # count events, not windows with the code

    def rank(self, baskets: Baskets, windows: np.ndarray, popularity_C: np.ndarray) -> np.ndarray:
        """(R, K) codes after each of `windows`, best first."""
        first_R, end_ms_W = baskets.first_of_user_W[windows], baskets.end_ms_W
        past_E = concatenated_ranges(first_R, windows + 1)
        row_E = np.repeat(np.arange(len(windows)), windows + 1 - first_R)
        age_days_E = (end_ms_W[windows][row_E] - end_ms_W[past_E]) / DAY_MS
        weight_E = np.exp2(-age_days_E / self.half_life_days)
        weight_RW = csr_array((weight_E, (row_E, past_E)), (len(windows), len(end_ms_W)))
        count_L = baskets.events_L if self.per_event else np.ones(len(baskets.code_L))
        lines_WC = csr_array(
            (count_L.astype(float), baskets.code_L, baskets.first_W),
            (len(end_ms_W), baskets.codes),
        )
        counts_RC = csr_array(weight_RW @ lines_WC)
        weight = max(self.popularity_weight, TIE_BREAK) / max(popularity_C.sum(), 1)
        best = []
        for first in range(0, len(windows), BLOCK_ROWS):
            score_BC = counts_RC[first : first + BLOCK_ROWS].toarray() + weight * popularity_C
            found = torch.from_numpy(score_BC).topk(min(PLACES, baskets.codes))
            best.append(np.where(found.values > 0, found.indices, NO_CODE))
        return np.concatenate(best)


CHOICES = {
    "half_life_days": (14.0, 30.0, 60.0, 90.0, 180.0, np.inf),
    "per_event": (True,),
    "popularity_weight": (0.0, 3.0, 10.0, 30.0, 100.0),
}


def most_popular(popularity_C: np.ndarray, rows: int) -> np.ndarray:
    """(R, K) the most popular codes."""
    best = np.argsort(-popularity_C, kind="stable")[:PLACES]
    return np.tile(np.where(popularity_C[best] > 0, best, NO_CODE), (rows, 1))


def rank_baselines(
    streams: Streams,
    kind: Kind,
    split: Split,
    targets: NextBaskets,
    refreshed: bool,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, BaselineRanking]:
    """The rankings of each baseline model for `targets`.

    refreshed: whether popularity includes the validation split.
    """
    baskets = Baskets.from_streams(streams, kind)
    tuning = subset(next_baskets(streams, kind, split.validation), TUNING_ROWS)
    train_popularity_C = baskets.popularity(split.train)

    def quality(ranking_RK: np.ndarray) -> float:
        return float(basket_scores(tuning, ranking_RK).ndcg_at_10.mean())

    counts = coordinate_search(
        OwnCounts(),
        CHOICES,
        lambda each: quality(each.rank(baskets, tuning.window_W, train_popularity_C)),
        lambda done, total: on_progress(f"own_counts, {kind}", done, total),
    )
    lstm = recurrent.fit(
        nn.LSTM,
        baskets,
        split.train,
        lambda each: quality(each.rank(baskets, tuning.window_W)),
        lambda done, total: on_progress(f"lstm, {kind}", done, total),
    )
    reference = np.union1d(split.train, split.validation) if refreshed else split.train
    windows, popularity_C = targets.window_W, baskets.popularity(reference)
    return {
        "popularity": BaselineRanking(most_popular(popularity_C, len(windows)), {}),
        "own_counts": BaselineRanking(
            counts.rank(baskets, windows, popularity_C), counts._asdict()
        ),
        "lstm": BaselineRanking(lstm.rank(baskets, windows), {"epochs": lstm.epochs}),
    }


def coordinate_search(
    start: Settings,
    choices: Mapping[str, Sequence[Any]],
    quality: Callable[[Settings], float],
    on_try: Callable[[int, int], None] = lambda done, total: None,
) -> Settings:
    """Improves one setting after the other, in the order of `choices`, from `start`.

    Keeps the earlier of two equally good settings. `on_try` receives the settings tried and their
    largest number.
    """
    best, best_quality = start, quality(start)
    total, tried = 1 + sum(len(values) for values in choices.values()), 1
    on_try(tried, total)
    for name, values in choices.items():
        for value in values:
            candidate = best._replace(**{name: value})
            tried += 1
            if candidate != best and (its_quality := quality(candidate)) > best_quality:
                best, best_quality = candidate, its_quality
            on_try(tried, total)
    return best
