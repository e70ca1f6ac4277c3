"""How sure a difference between two models is: a paired bootstrap over users.

What is predicted of one user is alike, so whole users are drawn anew, with replacement, and both
models are measured on the same draws (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
chapter 13: percentiles).

Shape suffixes: N predictions, U users among them, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 1_000
CONFIDENCE = 0.95
SEED = 20171101

Measure = Callable[[np.ndarray], float]  # of how often each prediction was drawn, (N,)


class Interval(NamedTuple):
    """Of the first model minus the second."""

    difference: float
    low: float
    high: float


class Bootstrap:
    """The users of N predictions, drawn once for all measures."""

    def __init__(self, user_N: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED):
        self._user_N, users = np.unique(user_N, return_inverse=True)[1], len(np.unique(user_N))
        random = np.random.default_rng(seed)
        self._drawn_RU = random.multinomial(users, np.full(users, 1 / users), resamples)

    def mean(self, one_N: np.ndarray, other_N: np.ndarray) -> Interval:
        """As of NDCG@10, or of hits for an accuracy."""
        sum_U = np.bincount(self._user_N, np.asarray(one_N, float) - other_N)
        count_U = np.bincount(self._user_N)
        differences = self._drawn_RU @ sum_U / (self._drawn_RU @ count_U)
        return _interval(sum_U.sum() / count_U.sum(), differences)

    def mae(self, one_N: np.ndarray, other_N: np.ndarray, truth_N: np.ndarray) -> Interval:
        """Mean absolute error: below 0 where the first model is the better."""
        return self.mean(np.abs(one_N - truth_N), np.abs(other_N - truth_N))

    def auc(self, one_N: np.ndarray, other_N: np.ndarray, true_N: np.ndarray) -> Interval:
        """Area under the ROC curve; draws with one class alone are left out."""
        return self._difference(_auc(one_N, true_N), _auc(other_N, true_N))

    def average_precision(
        self, one_N: np.ndarray, other_N: np.ndarray, true_N: np.ndarray
    ) -> Interval:
        """Draws without a true one are left out."""
        return self._difference(
            _average_precision(one_N, true_N), _average_precision(other_N, true_N)
        )

    def spearman(self, one_N: np.ndarray, other_N: np.ndarray, truth_N: np.ndarray) -> Interval:
        """Rank correlation with the truth."""
        return self._difference(_spearman(one_N, truth_N), _spearman(other_N, truth_N))

    def _difference(self, one: Measure, other: Measure) -> Interval:
        def measured(drawn_U: np.ndarray) -> float:
            weight_N = drawn_U[self._user_N].astype(float)
            return one(weight_N) - other(weight_N)

        everyone = measured(np.ones(self._drawn_RU.shape[1]))
        return _interval(everyone, np.array([measured(drawn_U) for drawn_U in self._drawn_RU]))


def _interval(difference: float, differences_R: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(differences_R, [tail, 1 - tail])
    return Interval(float(difference), float(low), float(high))


def _auc(score_N: np.ndarray, true_N: np.ndarray) -> Measure:
    group_N = np.unique(score_N, return_inverse=True)[1]

    def measure(weight_N: np.ndarray) -> float:
        positive_N = np.where(true_N, weight_N, 0.0)
        negative_N = weight_N - positive_N
        pairs = positive_N.sum() * negative_N.sum()
        return positive_N @ _midranks(group_N, negative_N) / pairs if pairs else np.nan

    return measure


def _average_precision(score_N: np.ndarray, true_N: np.ndarray) -> Measure:
    group_N = np.unique(-score_N, return_inverse=True)[1]

    def measure(weight_N: np.ndarray) -> float:
        true_G = np.bincount(group_N, np.where(true_N, weight_N, 0.0))
        found_G, asked_G = true_G.cumsum(), np.bincount(group_N, weight_N).cumsum()
        drawn_G = true_G > 0
        precision_G = found_G[drawn_G] / asked_G[drawn_G]
        return true_G[drawn_G] @ precision_G / true_G.sum() if drawn_G.any() else np.nan

    return measure


def _spearman(score_N: np.ndarray, truth_N: np.ndarray) -> Measure:
    groups = [np.unique(values_N, return_inverse=True)[1] for values_N in (score_N, truth_N)]

    def measure(weight_N: np.ndarray) -> float:
        # Each mean rank is half of all weight.
        one_N, other_N = (_midranks(group_N, weight_N) - weight_N.sum() / 2 for group_N in groups)
        spread = (weight_N @ one_N**2) * (weight_N @ other_N**2)
        return weight_N @ (one_N * other_N) / np.sqrt(spread) if spread else np.nan

    return measure


def _midranks(group_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """(N,) weight of the lower groups and half of the same one; groups count up with the score."""
    weight_G = np.bincount(group_N, weight_N)
    return (np.cumsum(weight_G) - weight_G / 2)[group_N]
