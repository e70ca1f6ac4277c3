"""Next baskets by a gradient-boosted ranker on counts, recency, gaps and category counts.

LambdaMART (Burges 2010, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82) as implemented by
XGBoost (arXiv:1603.02754) orders the candidates of each row: the user's best own codes by decayed
counts, completed by popular ones.

Shape suffixes: R rows, M candidates of all rows, P pairs of a history, F features, C codes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from xgboost import XGBRanker

from lab.baselines.basket_history import History, first_places
from models.profile.evaluation.next_basket import NO_CODE, PLACES, NextBaskets

CANDIDATES = 100
HALF_LIVES_DAYS = (7.0, 30.0, 90.0, np.inf)
CANDIDATE_HALF_LIFE_DAYS, CANDIDATE_POPULARITY_WEIGHT = 60.0, 10.0
NEVER_DAYS = 400.0
GRID = ({"max_depth": 4}, {"max_depth": 6})
COMMON = {
    "objective": "rank:ndcg",
    "eval_metric": "ndcg@10",
    "lambdarank_pair_method": "topk",
    "lambdarank_num_pair_per_sample": PLACES,
    "n_estimators": 300,
    "early_stopping_rounds": 20,
    "learning_rate": 0.1,
    "min_child_weight": 20,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    "tree_method": "hist",
    "n_jobs": 1,
    "random_state": 20170930,
}


class Candidates(NamedTuple):
    """Candidates of each row, row by row, with their features."""

    row_M: np.ndarray
    code_M: np.ndarray
    features_MF: np.ndarray

    def labels(self, baskets: NextBaskets) -> np.ndarray:
        """(M,) bool: whether the user's next window has the candidate."""
        key_M = baskets.row_M * baskets.codes + baskets.code_M
        return np.isin(self.row_M * baskets.codes + self.code_M, key_M)


class Groups(NamedTuple):
    """The codes' groups (an item's category) and the past of the same rows in groups."""

    group_C: np.ndarray
    history: History


def candidates(history: History, groups: Groups | None = None) -> Candidates:
    """Features of the best CANDIDATES codes of each row. groups: None for codes without groups."""
    decayed_P = history.sums(np.exp2(-history.age_days_E / CANDIDATE_HALF_LIFE_DAYS))
    code_RK = history.best(decayed_P, CANDIDATE_POPULARITY_WEIGHT, CANDIDATES)
    row_M, place_M = np.nonzero(code_RK != NO_CODE)
    code_M = code_RK[row_M, place_M]
    windows_R = history.windows()
    popularity_C = history.popularity_C
    rank_C = np.empty(len(popularity_C))
    rank_C[np.argsort(-popularity_C, kind="stable")] = np.arange(len(popularity_C))
    sizes_R = np.bincount(history.row_of_entries(), minlength=history.rows)
    features = [
        place_M,
        *_past_features(history, row_M, code_M),
        windows_R[row_M],
        (sizes_R / np.maximum(windows_R, 1))[row_M],
        _days_before_last_window(history)[row_M],
        np.log1p(popularity_C[code_M]),
        np.log1p(rank_C[code_M]),
    ]
    if groups is not None:
        group_M = groups.group_C[code_M]
        features += _past_features(groups.history, row_M, group_M)
        features.append(np.log1p(groups.history.popularity_C[group_M]))
    return Candidates(row_M, code_M, np.column_stack(features).astype(np.float32))


def _past_features(history: History, row_M: np.ndarray, code_M: np.ndarray) -> list[np.ndarray]:
    """Counts at each half-life, events, recency, age, gaps; neutral values for a new code."""
    age_E = history.age_days_E
    first_P = history.first_P
    sums_P = [history.sums(np.exp2(-age_E / half_life)) for half_life in HALF_LIVES_DAYS]
    recency_P, age_P = np.minimum.reduceat(age_E, first_P), np.maximum.reduceat(age_E, first_P)
    count_P = sums_P[-1]
    gap_P = np.where(count_P > 1, (age_P - recency_P) / np.maximum(count_P - 1, 1), NEVER_DAYS)
    width = len(history.popularity_C)
    pair_P = history.row_P * width + history.code_P
    index_M = np.searchsorted(pair_P, row_M * width + code_M)
    index_M = np.minimum(index_M, len(pair_P) - 1)
    known_M = pair_P[index_M] == row_M * width + code_M
    share_P = count_P / history.windows()[history.row_P]
    named_P = [
        *((values, 0.0) for values in sums_P),
        (history.sums(history.events_E), 0.0),
        (share_P, 0.0),
        (recency_P, NEVER_DAYS),
        (np.minimum.reduceat(history.windows_ago_E, first_P), NEVER_DAYS),
        (age_P, NEVER_DAYS),
        (gap_P, NEVER_DAYS),
        (recency_P / np.maximum(gap_P, 1), 0.0),
    ]
    return [np.where(known_M, values_P[index_M], absent) for values_P, absent in named_P]


def _days_before_last_window(history: History) -> np.ndarray:
    """(R,) days from the window before to the row's own window."""
    days_R = np.full(history.rows, NEVER_DAYS)
    earlier_E = history.windows_ago_E > 0
    np.minimum.at(days_R, history.row_of_entries()[earlier_E], history.age_days_E[earlier_E])
    return days_R


class BoostedRanker:
    """A fitted ranker."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self._model = XGBRanker(**COMMON, **settings)

    def fit(
        self,
        train: tuple[Candidates, NextBaskets],
        validation: tuple[Candidates, NextBaskets],
    ) -> BoostedRanker:
        """Validation decides the number of rounds."""
        (x, y, group), held_out = _grouped(*train), _grouped(*validation)
        self._model.fit(
            x, y, qid=group, eval_set=[held_out[:2]], eval_qid=[held_out[2]], verbose=False
        )
        self.settings = {**self.settings, "rounds": self._model.best_iteration + 1}
        return self

    @property
    def quality(self) -> float:
        """NDCG@10 of the candidates of validation."""
        return self._model.best_score

    def rank(self, given: Candidates, rows: int) -> np.ndarray:
        """(R, K) codes, best first."""
        score_M = self._model.predict(given.features_MF)
        order = np.lexsort((-score_M, given.row_M))
        return first_places(given.row_M[order], given.code_M[order], rows, PLACES)


def _grouped(given: Candidates, baskets: NextBaskets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return given.features_MF, given.labels(baskets).astype(int), given.row_M
