"""The baseline of the event model: logistic regression on the same features."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from models.fraud.datasets.part import Part

STRENGTHS = (0.01, 1.0)  # inverse of the penalty on large weights, chosen on the validation part
_ROWS_AT_ONCE = 10_000


class Logistic:
    """Features are brought to one scale: counts and amounts by their logarithm, then mean 0 and
    deviation 1; what is not known is the mean."""

    def __init__(self, train: Part, legitimate_weight: float, strength: float):
        x_NF = _flattened(train.x_NF)
        known_F = ~np.isnan(x_NF).all(axis=0)
        self._mean_F, self._deviation_F = np.zeros(len(known_F)), np.ones(len(known_F))
        self._mean_F[known_F] = np.nanmean(x_NF[:, known_F], axis=0)
        deviation_F = np.nanstd(x_NF[:, known_F], axis=0)
        self._deviation_F[known_F] = np.where(deviation_F > 0, deviation_F, 1.0)
        weight_N = np.where(train.fraud_N, 1.0, legitimate_weight)
        # Newton's steps: few, and there are many more rows than features.
        self._curve = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=200).fit(
            self._scaled(train.x_NF), train.fraud_N, weight_N
        )

    def score(self, x_NF: np.ndarray) -> np.ndarray:
        """(N,) probability of fraud."""
        parts = [
            self._curve.predict_proba(self._scaled(x_NF[start : start + _ROWS_AT_ONCE]))[:, 1]
            for start in range(0, len(x_NF), _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts)

    def _scaled(self, x_NF: np.ndarray) -> np.ndarray:
        return np.nan_to_num((_flattened(x_NF) - self._mean_F) / self._deviation_F)


def _flattened(x_NF: np.ndarray) -> np.ndarray:
    return np.sign(x_NF) * np.log1p(np.abs(x_NF))


def chosen(train: Part, legitimate_weight: float, validation: Part) -> Logistic:
    """The one with the best average precision on the validation part."""
    found = [Logistic(train, legitimate_weight, strength) for strength in STRENGTHS]
    return max(
        found,
        key=lambda one: average_precision_score(validation.fraud_N, one.score(validation.x_NF)),
    )
