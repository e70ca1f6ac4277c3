"""Baseline of the fraud model: logistic regression on the same features."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from models.fraud.datasets.event_dataset import LabelledFeatures

INVERSE_PENALTIES = (0.01, 1.0)  # L2 regularization, chosen on validation
_CHUNK_ROWS = 10_000


class LogisticBaseline:
    """Logistic regression on log-scaled, standardized features. Unknown values become the mean."""

    def __init__(self, train: LabelledFeatures, legitimate_weight: float, inverse_penalty: float):
        x_NF = _log_scaled(train.x_NF)
        known_F = ~np.isnan(x_NF).all(axis=0)
        self._mean_F, self._deviation_F = np.zeros(len(known_F)), np.ones(len(known_F))
        self._mean_F[known_F] = np.nanmean(x_NF[:, known_F], axis=0)
        deviation_F = np.nanstd(x_NF[:, known_F], axis=0)
        self._deviation_F[known_F] = np.where(deviation_F > 0, deviation_F, 1.0)
        weight_N = np.where(train.fraud_N, 1.0, legitimate_weight)
        # Newton's method needs few steps, and fits well when rows far outnumber features.
        self._regression = LogisticRegression(
            C=inverse_penalty, solver="newton-cholesky", max_iter=200
        ).fit(self._standardized(train.x_NF), train.fraud_N, weight_N)

    def score(self, x_NF: np.ndarray) -> np.ndarray:
        """Returns (N,) probabilities of fraud."""
        chunks = [
            self._regression.predict_proba(self._standardized(x_NF[start : start + _CHUNK_ROWS]))[
                :, 1
            ]
            for start in range(0, len(x_NF), _CHUNK_ROWS)
        ]
        return np.concatenate(chunks)

    def _standardized(self, x_NF: np.ndarray) -> np.ndarray:
        return np.nan_to_num((_log_scaled(x_NF) - self._mean_F) / self._deviation_F)


def _log_scaled(x_NF: np.ndarray) -> np.ndarray:
    return np.sign(x_NF) * np.log1p(np.abs(x_NF))


def tune_logistic(
    train: LabelledFeatures, legitimate_weight: float, validation: LabelledFeatures
) -> LogisticBaseline:
    """Returns the regression with the best average precision on validation."""
    candidates = [
        LogisticBaseline(train, legitimate_weight, inverse_penalty)
        for inverse_penalty in INVERSE_PENALTIES
    ]
    return max(
        candidates,
        key=lambda regression: average_precision_score(
            validation.fraud_N, regression.score(validation.x_NF)
        ),
    )
