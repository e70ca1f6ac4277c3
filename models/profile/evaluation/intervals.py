"""Confidence intervals of the difference between two models, by a paired bootstrap over users.

Predictions of one user are correlated, so the bootstrap resamples whole users with replacement and
measures both models on the same resamples (Efron and Tibshirani 1993, An Introduction to the
Bootstrap, chapter 13: percentile intervals).

Shape suffixes: N predictions, U users among them, R resamples, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 1_000
CONFIDENCE = 0.95
SEED = 20171101

WeightedMetric = Callable[[np.ndarray], float]  # of the (N,) weights of the predictions


class Interval(NamedTuple):
    """The first model's metric minus the second's, with its confidence interval."""

    difference: float
    low: float
    high: float


class UserBootstrap:
    """Resamples the users of N predictions once, for all metrics.

    Each method compares the (N,) values or scores of a first and a second model.
    """

    def __init__(self, user_N: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED):
        self._user_N, users = np.unique(user_N, return_inverse=True)[1], len(np.unique(user_N))
        random = np.random.default_rng(seed)
        self._counts_RU = random.multinomial(users, np.full(users, 1 / users), resamples)

    def mean(self, first_N: np.ndarray, second_N: np.ndarray) -> Interval:
        """Difference of means, as of NDCG@10 or of hits (accuracy)."""
        sum_U = np.bincount(self._user_N, np.asarray(first_N, float) - second_N)
        count_U = np.bincount(self._user_N)
        differences_R = self._counts_RU @ sum_U / (self._counts_RU @ count_U)
        return _interval(sum_U.sum() / count_U.sum(), differences_R)

    def mae(self, first_N: np.ndarray, second_N: np.ndarray, truth_N: np.ndarray) -> Interval:
        """Mean absolute error: below 0 where the first model is better."""
        return self.mean(np.abs(first_N - truth_N), np.abs(second_N - truth_N))

    def auc(self, first_N: np.ndarray, second_N: np.ndarray, true_N: np.ndarray) -> Interval:
        """Area under the ROC curve; resamples with a single class are ignored."""
        return self._difference(_auc(first_N, true_N), _auc(second_N, true_N))

    def average_precision(
        self, first_N: np.ndarray, second_N: np.ndarray, true_N: np.ndarray
    ) -> Interval:
        """Average precision; resamples without a positive are ignored."""
        return self._difference(
            _average_precision(first_N, true_N), _average_precision(second_N, true_N)
        )

    def _difference(self, first: WeightedMetric, second: WeightedMetric) -> Interval:
        def difference(count_U: np.ndarray) -> float:
            weight_N = count_U[self._user_N].astype(float)
            return first(weight_N) - second(weight_N)

        all_users = difference(np.ones(self._counts_RU.shape[1]))
        return _interval(all_users, np.array([difference(count_U) for count_U in self._counts_RU]))


def _interval(difference: float, differences_R: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(differences_R, [tail, 1 - tail])
    return Interval(float(difference), float(low), float(high))


def _auc(score_N: np.ndarray, true_N: np.ndarray) -> WeightedMetric:
    group_N = np.unique(score_N, return_inverse=True)[1]

    def metric(weight_N: np.ndarray) -> float:
        positive_N = np.where(true_N, weight_N, 0.0)
        negative_N = weight_N - positive_N
        pairs = positive_N.sum() * negative_N.sum()
        # Of each prediction, the negatives with lower scores plus half of those with its own.
        weight_G = np.bincount(group_N, negative_N)
        below_N = (np.cumsum(weight_G) - weight_G / 2)[group_N]
        return positive_N @ below_N / pairs if pairs else np.nan

    return metric


def _average_precision(score_N: np.ndarray, true_N: np.ndarray) -> WeightedMetric:
    group_N = np.unique(-score_N, return_inverse=True)[1]

    def metric(weight_N: np.ndarray) -> float:
        positive_G = np.bincount(group_N, np.where(true_N, weight_N, 0.0))
        true_positives_G = positive_G.cumsum()
        predicted_G = np.bincount(group_N, weight_N).cumsum()
        has_positive_G = positive_G > 0
        precision_G = true_positives_G[has_positive_G] / predicted_G[has_positive_G]
        if not has_positive_G.any():
            return np.nan
        return positive_G[has_positive_G] @ precision_G / positive_G.sum()

    return metric
